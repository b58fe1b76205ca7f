//! The id that one connection carries in its records at every hop.

use std::fmt;

use serde::{Serialize, Serializer};
use uuid::{Uuid, Version};

/// A UUID of version 7 (RFC 9562 §5.7): unique, and sorted by the time it was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(Uuid);

impl ConnectionId {
    /// Makes a new id from the clock and the system's random numbers.
    #[expect(
        clippy::new_without_default,
        reason = "each call makes another value; a default would promise the same one"
    )]
    pub fn new() -> ConnectionId {
        ConnectionId(Uuid::now_v7())
    }

    /// The id of these bytes, if they are a version 7 UUID of the RFC 9562 variant.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<ConnectionId> {
        let uuid = Uuid::from_bytes(bytes);
        let is_v7 = uuid.get_version() == Some(Version::SortRand)
            && uuid.get_variant() == uuid::Variant::RFC4122;
        is_v7.then_some(ConnectionId(uuid))
    }

    /// The 16 bytes of the id, in network order.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip() {
        let id = ConnectionId::new();
        assert_eq!(ConnectionId::from_bytes(id.to_bytes()), Some(id));
    }

    #[test]
    fn ids_differ_and_are_in_order() {
        let ids: Vec<_> = (0..1000).map(|_| ConnectionId::new()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }

    /// The example of RFC 9562, appendix A.6.
    #[test]
    fn display_is_the_hyphenated_form() {
        let bytes = 0x017F22E2_79B0_7CC3_98C4_DC0C0C07398F_u128.to_be_bytes();
        let id = ConnectionId::from_bytes(bytes).unwrap();
        assert_eq!(id.to_string(), "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
    }

    #[test]
    fn other_versions_and_variants_are_refused() {
        let good = ConnectionId::new().to_bytes();
        let with = |index: usize, byte: u8| {
            let mut bytes = good;
            bytes[index] = byte;
            ConnectionId::from_bytes(bytes)
        };
        assert_eq!(with(6, 0x40), None);
        assert_eq!(with(8, 0xC0), None);
        assert_eq!(ConnectionId::from_bytes([0; 16]), None);
        assert_eq!(ConnectionId::from_bytes([0xFF; 16]), None);
    }
}
