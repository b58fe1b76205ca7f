//! The TLS alert that tells an application that it was refused.

use crate::refusal::Class;

/// A plaintext record (RFC 8446 §5.1) with a fatal alert (§6) for a refusal, to be sent to
/// the application before its connection is closed.
///
/// Sent before any ServerHello, so it is in the clear and every client can read it.
pub fn alert_for(class: Class) -> [u8; 7] {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    [ALERT, 3, 3, 0, 2, FATAL, description(class)]
}

/// The alert description (RFC 8446 §6.2) of a class.
fn description(class: Class) -> u8 {
    const ACCESS_DENIED: u8 = 49;
    const DECODE_ERROR: u8 = 50;
    const INTERNAL_ERROR: u8 = 80;
    const UNRECOGNIZED_NAME: u8 = 112;
    match class {
        Class::Denied => ACCESS_DENIED,
        Class::UnknownName => UNRECOGNIZED_NAME,
        Class::Malformed => DECODE_ERROR,
        Class::Unreachable | Class::Busy | Class::Internal => INTERNAL_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_by_class() {
        assert_eq!(alert_for(Class::Denied), [21, 3, 3, 0, 2, 2, 49]);
        assert_eq!(alert_for(Class::UnknownName), [21, 3, 3, 0, 2, 2, 112]);
        assert_eq!(alert_for(Class::Malformed), [21, 3, 3, 0, 2, 2, 50]);
        for class in [Class::Unreachable, Class::Busy, Class::Internal] {
            assert_eq!(alert_for(class), [21, 3, 3, 0, 2, 2, 80]);
        }
    }
}
