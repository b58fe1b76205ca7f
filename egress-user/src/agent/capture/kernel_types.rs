//! The running kernel's own description of its types (BTF, see the kernel's
//! `Documentation/bpf/btf.rst`), as far as the programs need it: where members of its structures
//! are, and the number of a function. aya knows the format too, but tells nobody what is in a structure.

use std::fs;
use std::io;

use egress_common::Member;

/// The offset of each [`Member`], in the order of [`Member::index`].
pub(super) type Members = [u32; Member::ALL.len()];

/// `struct btf_header`.
const HEADER: usize = 24;
/// `struct btf_type`.
const TYPE: usize = 12;
/// `struct btf_member`.
const MEMBER: usize = 12;

/// The magic number, and the version with no flags.
const MAGIC: [u8; 2] = 0xeb9f_u16.to_ne_bytes();
const VERSION: [u8; 2] = [1, 0];

const KIND_STRUCT: u32 = 4;
const KIND_FWD: u32 = 7;
const KIND_FUNC: u32 = 12;

/// What the kernel says of its types.
pub(super) struct KernelTypes {
    bytes: Vec<u8>,
}

impl KernelTypes {
    /// The running kernel's.
    pub(super) fn of_this_kernel() -> io::Result<KernelTypes> {
        let bytes = fs::read("/sys/kernel/btf/vmlinux")?;
        Ok(KernelTypes { bytes })
    }

    /// Where this kernel has every [`Member`].
    pub(super) fn members(&self) -> Option<Members> {
        let mut found = [None; Member::ALL.len()];
        for (_, each) in self.types()? {
            if each.kind() != KIND_STRUCT {
                continue;
            }
            for member in Member::ALL {
                let (structure, name) = member.path();
                if self.is_named(each.name, structure)
                    && let Some(slot) = found.get_mut(member.index())
                {
                    *slot = slot.or_else(|| self.offset(&each, name));
                }
            }
        }
        let mut members = [0; Member::ALL.len()];
        for (member, found) in members.iter_mut().zip(found) {
            *member = found?;
        }
        Some(members)
    }

    /// A description in which there is nothing but the function of this name, with the number that it
    /// has for the kernel: all that a loader asks for, and quickly read.
    pub(super) fn function_alone(&self, name: &str) -> Option<Vec<u8>> {
        let is_it = |each: &Type<'_>| each.kind() == KIND_FUNC && self.is_named(each.name, name);
        let (id, _) = self.types()?.find(|(_, each)| is_it(each))?;
        let types = u32::try_from(TYPE).ok()?.checked_mul(id)?;
        let strings = u32::try_from(name.len() + 2).ok()?;
        let header = [24, 0, types, types, strings];
        let nothing = [0, KIND_FWD << 24, 0];
        let function = [1, KIND_FUNC << 24, 0];
        let before = (1..id).flat_map(|_| nothing);
        let words = header.into_iter().chain(before).chain(function);
        let mut bytes = [MAGIC, VERSION].concat();
        bytes.extend(words.flat_map(u32::to_ne_bytes));
        bytes.push(0);
        bytes.extend(name.bytes());
        bytes.push(0);
        Some(bytes)
    }

    /// Every type with its number, which begins at 1.
    fn types(&self) -> Option<impl Iterator<Item = (u32, Type<'_>)>> {
        let start = self.section(8)?;
        let len = word(&self.bytes, 12)? as usize;
        let mut rest = self.bytes.get(start..start.checked_add(len)?)?;
        let each = std::iter::from_fn(move || {
            let (head, behind) = rest.split_at_checked(TYPE)?;
            let mut each = Type {
                name: word(head, 0)?,
                info: word(head, 4)?,
                more: &[],
            };
            (each.more, rest) = behind.split_at_checked(each.len()?)?;
            Some(each)
        });
        Some((1..).zip(each))
    }

    /// The offset of a member in bytes; none of a bit field.
    fn offset(&self, structure: &Type<'_>, name: &str) -> Option<u32> {
        let mut members = structure.more.chunks_exact(MEMBER);
        let is_it = |member: &&[u8]| word(member, 0).is_some_and(|at| self.is_named(at, name));
        let bits = word(members.find(is_it)?, 8)?;
        // Where there may be bit fields, the uppermost eight bits are the width of one.
        let is_field = structure.info >> 31 == 1 && bits >> 24 != 0;
        (!is_field && bits.is_multiple_of(8)).then_some(bits / 8)
    }

    fn is_named(&self, at: u32, name: &str) -> bool {
        let found = || {
            let start = self.section(16)?.checked_add(at as usize)?;
            let end = start.checked_add(name.len())?;
            let terminated = self.bytes.get(end)? == &0;
            Some(terminated && self.bytes.get(start..end)? == name.as_bytes())
        };
        found().unwrap_or(false)
    }

    /// Where the section begins whose offset stands at `field` of the header.
    fn section(&self, field: usize) -> Option<usize> {
        let header = word(&self.bytes, 4)? as usize;
        let known = header >= HEADER && self.bytes.first_chunk() == Some(&MAGIC);
        let offset = word(&self.bytes, field)? as usize;
        known.then_some(header)?.checked_add(offset)
    }
}

/// One type.
struct Type<'a> {
    /// Where its name is among the strings.
    name: u32,
    info: u32,
    /// What follows, of its kind.
    more: &'a [u8],
}

impl Type<'_> {
    const fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }

    /// How many bytes follow; nothing where the kind is not known.
    fn len(&self) -> Option<usize> {
        let each = (self.info & 0xffff) as usize;
        match self.kind() {
            // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
            2 | KIND_FWD..=KIND_FUNC | 16 | 18 => Some(0),
            // Integers, variables, declaration tags.
            1 | 14 | 17 => Some(4),
            // Arrays.
            3 => Some(12),
            // Structures, unions, sections, enumerations of 64 bits.
            KIND_STRUCT | 5 | 15 | 19 => Some(12 * each),
            // Enumerations, prototypes.
            6 | 13 => Some(8 * each),
            _ => None,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use aya::{Btf, Endianness};
    use proptest::prelude::*;

    use super::*;

    fn this_kernel() -> KernelTypes {
        KernelTypes::of_this_kernel().expect("this kernel tells its types (CONFIG_DEBUG_INFO_BTF)")
    }

    #[test]
    fn the_running_kernel_has_every_member() {
        let members = this_kernel().members().expect("every member is found");
        // A namespace comes first in none of them, and no two members of a structure are in one place.
        assert_ne!(members[Member::SockNetns.index()], 0);
        assert_ne!(
            members[Member::SocketSock.index()],
            members[Member::SocketKind.index()]
        );
    }

    /// A description of these types and strings.
    fn described(types: &[u8], strings: &[u8]) -> KernelTypes {
        let [types_len, strings_len] =
            [types, strings].map(|section| u32::try_from(section.len()).unwrap());
        let header = [24, 0, types_len, types_len, strings_len].map(u32::to_ne_bytes);
        let parts = [
            MAGIC.as_slice(),
            &VERSION,
            header.as_flattened(),
            types,
            strings,
        ];
        KernelTypes {
            bytes: parts.concat(),
        }
    }

    fn words(words: &[[u32; 3]]) -> Vec<u8> {
        let all = words.iter().flatten();
        all.flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn a_function_alone_keeps_its_number() {
        let types = words(&[
            [0, KIND_FWD << 24, 0],
            // An enumeration of the same name is another thing.
            [1, 6 << 24, 0],
            [3, KIND_FUNC << 24, 1],
            [1, KIND_FUNC << 24, 1],
        ]);
        let types = described(&types, b"\0a_b\0");
        let id = |types: &KernelTypes, name| {
            let mut all = types.types().unwrap();
            all.find(|(_, each)| each.kind() == KIND_FUNC && types.is_named(each.name, name))
                .map(|(id, _)| id)
        };
        for (name, number) in [("b", 3), ("a_b", 4)] {
            let alone = types.function_alone(name).unwrap();
            let endian = if cfg!(target_endian = "big") {
                Endianness::Big
            } else {
                Endianness::Little
            };
            Btf::parse(&alone, endian).unwrap();
            assert_eq!(id(&KernelTypes { bytes: alone }, name), Some(number));
        }
        assert_eq!(types.function_alone("a"), None);
    }

    #[test]
    fn a_member_is_found_behind_bit_fields_and_a_part_of_its_name() {
        // A structure with bit fields and two members, of 16 bytes.
        let types = words(&[
            [1, 1 << 31 | KIND_STRUCT << 24 | 2, 16],
            [8, 0, 3 << 24 | 8],
            [16, 0, 64],
        ]);
        let types = described(&types, b"\0socket\0sk_more\0sk\0");
        let (_, socket) = types.types().unwrap().next().unwrap();
        assert_eq!(types.offset(&socket, "sk"), Some(8));
        assert_eq!(types.offset(&socket, "sk_more"), None, "a bit field");
        assert_eq!(types.offset(&socket, "k"), None);
        assert_eq!(types.members(), None, "the others are missing");
    }

    proptest! {
        /// Of whatever kinds, with whatever names, however short.
        #[test]
        fn whatever_is_described_there_is_an_answer(
            kinds in proptest::collection::vec((0u32..24, 0u32..4, 0u32..40), 0..40),
            noise: Vec<u8>,
            cut in 0usize..2048,
        ) {
            let types: Vec<[u32; 3]> = kinds
                .into_iter()
                .map(|(kind, many, name)| [name, kind << 24 | many, 8])
                .collect();
            let strings = b"\0socket\0sk\0type\0net\0net_cookie\0nsproxy\0";
            let mut types = described(&[words(&types), noise].concat(), strings);
            prop_assert_eq!(types.members(), None);
            let _found = types.function_alone("socket");
            types.bytes.truncate(cut);
            prop_assert_eq!(types.members(), None);
        }
    }
}
