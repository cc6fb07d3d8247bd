//! Mends what a count of the boot loader's, cut short by the power, has left.
//!
//! systemd-boot counts a start by renaming the entry, which no firmware does in one step. A cut leaves
//! the old name and the new one; from then on the old one starts, the rename fails as its new name is taken, and
//! systemd-boot starts the entry all the same: no start is counted any more. The updater mends that when it is up.
//! An image that never gets so far would start for ever, and the other slot never.
//!
//! The slot is booted whatever becomes of this. So it is done by a process of its own, which may hang on a
//! disk that does not answer (a thread that does would keep systemd from being started), and which
//! nobody waits for longer than a few seconds.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use partition_layout::Device as _;
use partition_layout::entry_names::{EditNamesError, EntryNames, TornName};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// What this program is started with to mend the names on the partition that follows.
pub const MEND: &str = "--mend-names";

/// A few sectors are read, and one or two written. The firmware has just read the kernel from there.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the names could not be mended.
#[derive(Debug, thiserror::Error)]
pub enum MendNamesError {
    #[error("cannot open it alone")]
    Open { source: io::Error },
    #[error("cannot mend the names of boot entries")]
    Names { source: EditNamesError },
}

/// Has another process mend the names on the partition `esp`, and waits a while for its end.
pub(crate) fn mend_apart(esp: &Path) -> io::Result<()> {
    let mut mender = Command::new("/proc/self/exe");
    let mender = mender.arg(MEND).arg(esp).env_clear().spawn()?;
    wait(mender, PATIENCE)
}

/// Forgets the names on the partition `esp` that stand for nothing of their own, and returns them.
///
/// As everywhere, they are changed only while nobody has the partition. Not past the page cache, as the
/// updater does it: nobody has read anything of it into there.
pub fn mend_names(esp: &Path) -> Result<Vec<TornName>, MendNamesError> {
    let exclusively = OFlags::EXCL.bits().cast_signed();
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).custom_flags(exclusively);
    let opened = options.open(esp);
    let mut device = opened.map_err(|source| MendNamesError::Open { source })?;
    let size = device.size();
    let size = size.map_err(|source| MendNamesError::Open { source })?;
    EntryNames::read(&mut device, 0..size)
        .and_then(|mut names| names.mend())
        .map_err(|source| MendNamesError::Names { source })
}

/// Waits for the end of `child`, which is killed and left to itself when it takes longer than `patience`.
fn wait(mut child: Child, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let pid = Pid::from_child(&child);
    let end = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                // In the middle of a write or not: each leaves the names as they were, or mended.
                child.kill()?;
                let seconds = patience.as_secs();
                return Err(io::Error::other(format!("no answer within {seconds} s")));
            }
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    match child.wait()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("it could not: {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::process::Stdio;

    use super::*;

    fn run(program: &str, arguments: &[&Path]) -> String {
        let output = host_tools::oracle(program)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn what_a_count_cut_short_has_left_is_taken_away_and_the_entry_stays() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("esp");
        File::create(&image).unwrap().set_len(3 << 20).unwrap();
        run("mkfs.vfat", &["-F16".as_ref(), "-s1".as_ref(), &image]);
        for made in ["::/EFI", "::/EFI/Linux"] {
            run("mmd", &["-i".as_ref(), &image, made.as_ref()]);
        }
        let (entry, torn) = ("bistable_2+3.efi", "bistable_2+2-1.efi");
        for (name, content) in [(entry, "a kernel"), (torn, "")] {
            let from = folder.path().join("content");
            fs::write(&from, content).unwrap();
            let to = format!("::/EFI/Linux/{name}");
            run("mcopy", &["-i".as_ref(), &image, &from, to.as_ref()]);
        }
        let forgotten = mend_names(&image).unwrap();
        let names: Vec<_> = forgotten.iter().map(|torn| torn.name.as_str()).collect();
        assert_eq!(names, [torn]);
        let listed = run(
            "mdir",
            &[
                "-b".as_ref(),
                "-i".as_ref(),
                &image,
                "::/EFI/Linux".as_ref(),
            ],
        );
        assert_eq!(listed.trim(), format!("::/EFI/Linux/{entry}"));
        assert_eq!(mend_names(&image).unwrap(), []);
    }

    #[test]
    fn what_is_no_file_system_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("esp");
        fs::write(&image, vec![0xa5; 1 << 20]).unwrap();
        let error = mend_names(&image).unwrap_err();
        assert!(matches!(error, MendNamesError::Names { .. }), "{error:?}");
        assert_eq!(fs::read(&image).unwrap(), vec![0xa5; 1 << 20]);
    }

    #[test]
    fn a_mender_that_hangs_is_not_waited_for() {
        // It reads until somebody writes, and nobody does.
        let mut hanging = Command::new("cat");
        let mut hanging = hanging.stdin(Stdio::piped()).spawn().unwrap();
        let kept = hanging.stdin.take();
        let pid = Pid::from_child(&hanging);
        let error = wait(hanging, Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("no answer"), "{error}");
        // It can be awaited as it was killed: its input is still open.
        let ended = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        assert!(ended.unwrap().is_some());
        drop(kept);
    }

    #[test]
    fn a_mender_that_fails_is_told_and_one_that_succeeds_is_not() {
        wait(Command::new("true").spawn().unwrap(), PATIENCE).unwrap();
        let failed = wait(Command::new("false").spawn().unwrap(), PATIENCE);
        assert!(failed.unwrap_err().to_string().contains("could not"));
    }
}
