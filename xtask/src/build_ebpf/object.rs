//! What is in a BPF object.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya_obj::{Object, Program};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;
use object::{Object as _, ObjectSection as _, SectionIndex};

/// The object's size, maps and programs with their sections, in aligned lines.
///
/// # Errors
///
/// Fails when the agent could not load it: it does not parse, or has no BTF or no programs.
pub(super) fn describe(path: &Path, bytes: &[u8]) -> Result<String> {
    let parsed =
        Object::parse(bytes).with_context(|| format!("cannot parse {}", path.display()))?;
    if parsed.btf.is_none() {
        bail!("{} has no BTF", path.display());
    }
    if parsed.programs.is_empty() {
        bail!("{} has no programs", path.display());
    }
    let programs = programs(&parsed, bytes)?;
    let kib = bytes.len().div_ceil(1024);
    let mut text = format!("{}  {kib} KiB  BTF  ", path.display());
    writeln!(
        text,
        "{} maps  {} programs:",
        parsed.maps.len(),
        programs.len()
    )?;
    let width = programs.iter().map(|(name, _)| name.len()).max();
    for (name, section) in programs {
        writeln!(
            text,
            "  {name:width$}  {section}",
            width = width.unwrap_or(0)
        )?;
    }
    Ok(text)
}

/// The object without DWARF, which no loader reads and which is most of it. BTF and the line
/// numbers for the verifier's log stay.
///
/// # Errors
///
/// Fails when the linker's output is not an ELF object.
pub(super) fn strip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(bytes).context("the linker did not write an ELF object")?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    elf.delete_orphans();
    // LLVM keeps the names of sections among those of symbols; the writer wants them apart.
    let names = elf.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::with_capacity(bytes.len());
    elf.write(&mut stripped)?;
    Ok(stripped)
}

/// The programs' names and sections, by name.
fn programs(parsed: &Object, bytes: &[u8]) -> Result<Vec<(String, String)>> {
    let elf = object::File::parse(bytes)?;
    let section = |program: &Program| -> Result<String> {
        let section = elf.section_by_index(SectionIndex(program.section_index))?;
        Ok(section.name()?.to_owned())
    };
    let mut programs = parsed
        .programs
        .iter()
        .map(|(name, program)| Ok((name.clone(), section(program)?)))
        .collect::<Result<Vec<_>>>()?;
    programs.sort();
    Ok(programs)
}
