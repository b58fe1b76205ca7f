//! What a program at a network device can tell the device by.

/// A guarded device.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Device {
    key: u32,
}

impl Device {
    /// Indices are positive signed numbers.
    const CLASS: u32 = 1 << 31;

    /// The device with this index. Devices of several namespaces may have the same one.
    #[inline(always)]
    pub const fn with_index(index: u32) -> Device {
        Device {
            key: index & !Device::CLASS,
        }
    }

    /// The device whose filter was given this class; it is one of its own.
    #[inline(always)]
    pub const fn with_class(class: u16) -> Device {
        Device {
            key: Device::CLASS | class as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_no_indices() {
        assert_ne!(Device::with_class(2), Device::with_index(2));
        assert_ne!(Device::with_class(2), Device::with_class(3));
        assert_eq!(Device::with_index(2), Device::with_index(2));
    }
}
