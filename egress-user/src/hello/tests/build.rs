//! ClientHellos made to measure.

/// A plausible TLS 1.3 hello whose every part can be replaced.
pub(in crate::hello) struct Build {
    pub(super) version: u16,
    pub(super) ciphers: Vec<u8>,
    pub(super) compression: Vec<u8>,
    pub(super) extensions: Vec<(u16, Vec<u8>)>,
    /// Bytes after the extensions.
    pub(super) tail: Vec<u8>,
}

impl Build {
    pub(in crate::hello) fn new(name: impl AsRef<[u8]>) -> Build {
        Build {
            version: 0x0303,
            ciphers: vec![0x13, 0x01, 0x13, 0x02, 0xc0, 0x2b],
            compression: vec![0],
            extensions: vec![
                (0, server_names(&[(0, name.as_ref())])),
                (10, u16_prefixed(&[0, 0x1d, 0, 0x17])),
                (13, u16_prefixed(&[4, 3, 8, 4])),
                (16, u16_prefixed(b"\x02h2\x08http/1.1")),
                (43, u8_prefixed(&[3, 4, 3, 3])),
            ],
            tail: Vec::new(),
        }
    }

    /// With one more extension at the end.
    pub(super) fn with(mut self, kind: u16, data: impl Into<Vec<u8>>) -> Build {
        self.extensions.push((kind, data.into()));
        self
    }

    pub(super) fn without(mut self, kind: u16) -> Build {
        self.extensions.retain(|(other, _)| *other != kind);
        self
    }

    /// With other content in an extension that is there.
    pub(super) fn replace(mut self, kind: u16, data: impl Into<Vec<u8>>) -> Build {
        let found = self.extensions.iter_mut().find(|(other, _)| *other == kind);
        found.unwrap().1 = data.into();
        self
    }

    pub(in crate::hello) fn message(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        for (kind, data) in &self.extensions {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(u16_prefixed(data));
        }
        handshake(
            1,
            &[
                self.fixed_part(),
                u16_prefixed(&extensions),
                self.tail.clone(),
            ]
            .concat(),
        )
    }

    /// Everything before the length of the extensions.
    pub(super) fn fixed_part(&self) -> Vec<u8> {
        let mut fixed = self.version.to_be_bytes().to_vec();
        fixed.extend([0x5a; 32]);
        fixed.extend(u8_prefixed(&[0xa5; 32]));
        fixed.extend(u16_prefixed(&self.ciphers));
        fixed.extend(u8_prefixed(&self.compression));
        fixed
    }

    /// The hello in one record.
    pub(super) fn stream(&self) -> Vec<u8> {
        record(&self.message())
    }
}

/// The content of a server_name extension.
pub(super) fn server_names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in names {
        list.push(*kind);
        list.extend(u16_prefixed(name));
    }
    u16_prefixed(&list)
}

pub(in crate::hello) fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind, length[1], length[2], length[3]], body].concat()
}

pub(super) fn record(fragment: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &*u16_prefixed(fragment)].concat()
}

/// The message in records of at most `size` bytes each.
pub(super) fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(record).collect()
}

pub(super) fn u8_prefixed(data: &[u8]) -> Vec<u8> {
    [&[u8::try_from(data.len()).unwrap()], data].concat()
}

pub(super) fn u16_prefixed(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).unwrap().to_be_bytes(), data].concat()
}
