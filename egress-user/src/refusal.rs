//! Why a connection was not carried: one form for every room, every hop and the tunnel.

use std::borrow::Cow;
use std::fmt;

use crate::rule_name::RuleName;

/// What kind of refusal it is: decides the TLS alert that the application sees
/// and whether the agent may try another gateway.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Class {
    /// Policy, or a rule about who may speak for whom, said no. Final.
    Denied = 1,
    /// The name does not exist or may not be dialled. Final.
    UnknownName = 2,
    /// The bytes are not an acceptable ClientHello. Final.
    Malformed = 3,
    /// The origin could not be reached. Final.
    Unreachable = 4,
    /// This gateway cannot take the stream now; another one may.
    Busy = 5,
    /// Something of ours broke.
    Internal = 6,
}

impl Class {
    /// Every class, in the order of its code.
    pub const ALL: [Class; 6] = [
        Class::Denied,
        Class::UnknownName,
        Class::Malformed,
        Class::Unreachable,
        Class::Busy,
        Class::Internal,
    ];

    /// The code on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The class of a code, if it is one.
    pub fn from_code(code: u8) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.code() == code)
    }
}

/// A refusal: its class, the reason in `snake_case`, and the rule that said so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// What kind of refusal.
    pub class: Class,
    /// One word per cause, for records and counters; never a name or an address.
    pub reason: Cow<'static, str>,
    /// The policy rule that decided, where one did.
    pub rule: Option<RuleName>,
}

impl Refusal {
    /// A refusal that no rule of the policy decided.
    pub fn new(class: Class, reason: &'static str) -> Refusal {
        Refusal {
            class,
            reason: Cow::Borrowed(reason),
            rule: None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "{} (rule {rule})", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for class in Class::ALL {
            assert_eq!(Class::from_code(class.code()), Some(class));
        }
        assert_eq!(Class::from_code(0), None);
        assert_eq!(Class::from_code(7), None);
    }
}
