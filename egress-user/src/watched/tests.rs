use std::io::Write;

use super::*;

struct Followed {
    watched: Watched,
    file: PathBuf,
    other: PathBuf,
    now: Instant,
    _dir: tempfile::TempDir,
}

impl Followed {
    fn new() -> Followed {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| dir.path().join(name));
        for file in &files {
            // What is written later is longer: the clock of a file system may not have gone on.
            fs::write(file, "old").unwrap();
        }
        let seen = State::of(&files);
        let [file, other] = files.clone();
        Followed {
            watched: Watched::new(files.into(), seen).unwrap(),
            file,
            other,
            now: Instant::now(),
            _dir: dir,
        }
    }

    fn changed_after(&mut self, time: Duration) -> bool {
        self.now += time;
        self.watched.changed(self.now)
    }
}

#[test]
fn files_that_stay_as_they_are_have_not_changed() {
    let mut followed = Followed::new();
    assert!(!followed.changed_after(SETTLING_UNSEEN));
    assert!(!followed.changed_after(SETTLING_UNSEEN));
    assert!(followed.watched.stands());
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    let mut followed = Followed::new();
    let mut file = File::create(&followed.file).unwrap();
    file.write_all(b"half").unwrap();
    for _ in 0..3 {
        assert!(!followed.changed_after(SETTLING_UNSEEN));
    }
    file.write_all(b"rest").unwrap();
    assert!(!followed.changed_after(SETTLING_UNSEEN));
    drop(file);
    assert!(followed.changed_after(SETTLING_UNSEEN));
    assert!(!followed.changed_after(SETTLING_UNSEEN));
}

#[test]
fn a_writer_that_never_closes_is_told_once() {
    let mut followed = Followed::new();
    let mut file = File::create(&followed.file).unwrap();
    file.write_all(b"newer").unwrap();
    assert!(!followed.changed_after(SETTLING));
    assert!(followed.watched.held(followed.now).is_none());
    assert!(!followed.changed_after(HELD));
    let held = followed.watched.held(followed.now).unwrap();
    assert!(
        held.to_string().contains("/a was changed, but somebody"),
        "{held}"
    );
    assert!(!followed.changed_after(HELD));
    assert!(followed.watched.held(followed.now).is_none());
    drop(file);
    assert!(followed.changed_after(SETTLING_UNSEEN));
}

/// Every event in the folder has the file looked at; none makes it older.
#[test]
fn a_file_settles_however_often_it_is_looked_at() {
    let mut followed = Followed::new();
    fs::write(&followed.file, "half").unwrap();
    for _ in 0..10 {
        assert!(!followed.changed_after(Duration::from_millis(4)));
    }
    // Written by a program that opens it once more for each part.
    fs::write(&followed.file, "half and rest").unwrap();
    for _ in 0..10 {
        assert!(!followed.changed_after(Duration::from_millis(4)));
    }
    assert!(followed.changed_after(SETTLING));
}

#[test]
fn files_settle_together() {
    let mut followed = Followed::new();
    fs::write(&followed.file, "newer").unwrap();
    assert!(!followed.changed_after(Duration::ZERO));
    fs::write(&followed.other, "longer").unwrap();
    assert!(!followed.changed_after(SETTLING));
    assert!(followed.changed_after(SETTLING));
    assert!(followed.watched.stands());
    fs::write(&followed.other, "longer still").unwrap();
    assert!(!followed.watched.stands());
}

#[test]
fn a_file_that_is_gone_is_a_change_and_one_that_comes_back_another() {
    let mut followed = Followed::new();
    fs::remove_file(&followed.file).unwrap();
    assert!(!followed.changed_after(TICK));
    assert!(followed.changed_after(TICK));
    fs::write(&followed.file, "back").unwrap();
    assert!(!followed.changed_after(TICK));
    assert!(followed.changed_after(TICK));
}
