//! A log in a file, also after somebody has put that away.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};

use super::writer::Out;

/// Appends to a file, and to a new one once there is another at its path, or none: programs that
/// rotate logs rename them, and what goes into a file that was deleted is on no record.
///
/// Whose records these are may be able to write where the log is, and this process is root. So the
/// path is followed once, and afterwards only the last name of it counts, in the same directory.
pub(super) struct LogFile {
    file: File,
    /// What cannot be renamed stays as it is: a terminal, a pipe.
    place: Option<Place>,
}

struct Place {
    directory: OwnedFd,
    name: OsString,
    /// Permissions of a new file.
    mode: Mode,
    /// Device and inode of the file that is open.
    opened: (u64, u64),
}

impl LogFile {
    /// Opens the file at a path, and makes it if there is none.
    pub(super) fn open(path: &Path) -> io::Result<LogFile> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let metadata = file.metadata()?;
        let place = match metadata.is_file() {
            true => Some(Place::of(path, &metadata)?),
            false => None,
        };
        Ok(LogFile { file, place })
    }
}

impl Place {
    fn of(path: &Path, opened: &Metadata) -> io::Result<Place> {
        let path = path.canonicalize()?;
        let (directory, name) = (path.parent(), path.file_name());
        let (directory, name) = directory.zip(name).ok_or(io::ErrorKind::InvalidInput)?;
        let directory = OpenOptions::new().read(true).open(directory)?;
        Ok(Place {
            directory: directory.into(),
            name: name.to_owned(),
            mode: Mode::from_raw_mode(opened.mode() & 0o666),
            opened: identity(opened),
        })
    }

    fn has_moved(&self) -> io::Result<bool> {
        match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(now) => Ok((now.st_dev, now.st_ino) != self.opened),
            Err(rustix::io::Errno::NOENT) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens what is there now, if that can only be a log.
    fn open_again(&mut self) -> io::Result<File> {
        // Without waiting: a pipe would have this wait for its reader.
        let flags = OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, &self.name, flags, self.mode)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.nlink() > 1 {
            return Err(io::Error::other(
                "what is in the place of the log is no file of its own",
            ));
        }
        self.opened = identity(&metadata);
        Ok(file)
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Out for LogFile {
    fn follow(&mut self) -> io::Result<bool> {
        let Some(place) = &mut self.place else {
            return Ok(false);
        };
        let moved = place.has_moved()?;
        if moved {
            self.file = place.open_again()?;
        }
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn log(dir: &Path) -> LogFile {
        LogFile::open(&dir.join("log")).unwrap()
    }

    fn write(log: &mut LogFile, line: &str) -> io::Result<bool> {
        let moved = log.follow()?;
        log.write_all(line.as_bytes())?;
        Ok(moved)
    }

    #[test]
    fn a_log_that_is_put_away_is_begun_anew_with_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("log"), "0").unwrap();
        fs::set_permissions(at("log"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut log = log(dir.path());
        assert!(!write(&mut log, "1").unwrap());
        fs::rename(at("log"), at("old")).unwrap();
        assert!(write(&mut log, "2").unwrap());
        assert!(!write(&mut log, "3").unwrap());
        assert_eq!(fs::read_to_string(at("old")).unwrap(), "01");
        assert_eq!(fs::read_to_string(at("log")).unwrap(), "23");
        let mode = fs::metadata(at("log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        fs::remove_file(at("log")).unwrap();
        assert!(write(&mut log, "4").unwrap());
        assert_eq!(fs::read_to_string(at("log")).unwrap(), "4");
        fs::rename(at("log"), at("old")).unwrap();
        fs::write(at("log"), "made by another: ").unwrap();
        assert!(write(&mut log, "5").unwrap());
        let text = fs::read_to_string(at("log")).unwrap();
        assert_eq!(text, "made by another: 5");
    }

    /// Who may write where the log is gets nothing written elsewhere, and keeps nobody waiting.
    #[test]
    fn only_a_file_of_its_own_takes_the_place_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut log = log(dir.path());
        fs::write(at("precious"), "").unwrap();
        let put = |what: &dyn Fn()| {
            let _ = fs::remove_file(at("log"));
            let _ = fs::remove_dir(at("log"));
            what();
        };
        put(&|| symlink(at("precious"), at("log")).unwrap());
        assert!(write(&mut log, "1").is_err());
        put(&|| fs::hard_link(at("precious"), at("log")).unwrap());
        assert!(write(&mut log, "2").is_err());
        put(&|| {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::mknodat(
                rustix::fs::CWD,
                at("log"),
                rustix::fs::FileType::Fifo,
                mode,
                0,
            )
            .unwrap();
        });
        assert!(write(&mut log, "3").is_err());
        put(&|| fs::create_dir(at("log")).unwrap());
        assert!(write(&mut log, "4").is_err());
        assert_eq!(fs::read_to_string(at("precious")).unwrap(), "");
        put(&|| {});
        assert!(write(&mut log, "5").unwrap());
    }

    #[test]
    fn a_path_by_symbolic_links_is_followed_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("target", at("log")).unwrap();
        let mut log = log(dir.path());
        write(&mut log, "1").unwrap();
        fs::rename(at("target"), at("old")).unwrap();
        write(&mut log, "2").unwrap();
        assert_eq!(fs::read_to_string(at("target")).unwrap(), "2");
    }

    #[test]
    fn what_is_no_file_stays() {
        let mut log = LogFile::open(Path::new("/dev/null")).unwrap();
        assert!(!write(&mut log, "1").unwrap());
    }
}
