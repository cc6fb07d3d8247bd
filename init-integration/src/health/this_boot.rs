//! Which boot this is, and of what.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use partition_layout::BootEntry;
use rustix::time::{ClockId, clock_gettime};

use super::gate::Stakes;

/// The files that say it.
#[derive(Debug, Clone)]
pub struct BootFiles {
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: PathBuf,
    /// `/proc/cmdline`
    pub cmdline: PathBuf,
    /// `/usr/lib/os-release`
    pub os_release: PathBuf,
    /// systemd-boot leaves its variable when the entry it booted counts its tries.
    pub boot_count_variable: PathBuf,
    /// The updater leaves it once the booted slot is good.
    pub settled: PathBuf,
    /// The updater's record of the trial that is open, of whatever slot.
    pub trial: PathBuf,
    /// Left here when nothing but that record says that this boot is a trial, for `bistable-undecided.service`.
    pub uncounted: PathBuf,
}

/// Which boot this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThisBoot {
    pub boot_id: String,
    /// As on the kernel command line; empty when there is none.
    pub root_hash: String,
    /// Of the image; empty when it does not say.
    pub version: String,
}

/// What counts here of the record.
#[derive(Debug, serde::Deserialize)]
struct TrialRecord {
    /// The boot in which it was armed.
    boot_id: String,
    root_hash: String,
}

impl BootFiles {
    /// Returns the files of a node.
    pub fn of_node() -> Self {
        Self {
            boot_id: "/proc/sys/kernel/random/boot_id".into(),
            cmdline: "/proc/cmdline".into(),
            os_release: "/usr/lib/os-release".into(),
            boot_count_variable:
                "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
                    .into(),
            settled: "/run/bistable/settled".into(),
            trial: "/var/lib/bistable/trial.json".into(),
            uncounted: "/run/bistable-health-gate/uncounted-trial".into(),
        }
    }

    /// Reads which boot this is. What a file does not say is left empty: a gate
    /// that knows less still has to decide.
    pub fn read(&self) -> ThisBoot {
        let boot_id = read(&self.boot_id);
        let cmdline = read(&self.cmdline);
        let root_hash = cmdline
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix("roothash="))
            .next_back();
        let os_release = read(&self.os_release);
        let version = os_release
            .lines()
            .find_map(|line| line.strip_prefix("IMAGE_VERSION="));
        ThisBoot {
            boot_id: boot_id.trim().to_owned(),
            root_hash: root_hash.unwrap_or_default().to_ascii_lowercase(),
            version: version
                .unwrap_or_default()
                .trim_matches(['"', '\''])
                .to_owned(),
        }
    }

    /// Leaves word that the boot is settled if the entry that was booted is of a good release
    /// whose starts are counted: nobody waits for a verdict on it. Tells whether it is.
    ///
    /// # Errors
    /// When the variable cannot be read, or the word not be left.
    pub fn settle_watched(&self) -> io::Result<bool> {
        let variable = fs::read(&self.boot_count_variable)?;
        let is_watched = booted_entry(&variable).is_some_and(|entry| entry.is_watched());
        if is_watched {
            if let Some(folder) = self.settled.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&self.settled, "")?;
        }
        Ok(is_watched)
    }

    /// Says what is at stake when the updater cannot be asked: a boot that the boot
    /// loader counts is a trial until the updater has said that it is over. So is one of an image
    /// that the updater has armed before: a boot loader that could not count the start leaves no word.
    pub fn presumed_stakes(&self) -> Stakes {
        let is_trial = self.boot_count_variable.exists() || self.is_on_record();
        if is_trial && !self.settled.exists() {
            Stakes::Trial
        } else {
            Stakes::Settled
        }
    }

    /// Leaves word for those who cannot read records that this boot is a trial which the boot loader
    /// did not count, if it is one.
    ///
    /// # Errors
    /// When the word cannot be left.
    pub fn note_uncounted(&self) -> io::Result<()> {
        if self.boot_count_variable.exists() || !self.is_on_record() {
            return Ok(());
        }
        fs::write(&self.uncounted, "")
    }

    /// Says whether the open trial is of the image that runs, armed in an earlier boot.
    fn is_on_record(&self) -> bool {
        let record = fs::read(&self.trial).ok();
        let record = record.and_then(|bytes| serde_json::from_slice::<TrialRecord>(&bytes).ok());
        record.is_some_and(|trial| {
            let boot = self.read();
            trial.root_hash.eq_ignore_ascii_case(&boot.root_hash) && trial.boot_id != boot.boot_id
        })
    }
}

/// Reads a firmware variable with the path of a boot entry, as systemd-boot left it when it had
/// counted the start: four bytes of attributes, then UTF-16 with a zero at its end.
fn booted_entry(variable: &[u8]) -> Option<BootEntry> {
    let (units, _) = variable.get(4..)?.as_chunks::<2>();
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    let path: String = char::decode_utf16(units).collect::<Result<_, _>>().ok()?;
    let (_, name) = path.trim_end_matches('\0').rsplit_once('\\')?;
    BootEntry::parse_file_name(name).ok()
}

fn read(path: &Path) -> String {
    let text: io::Result<String> = fs::read_to_string(path);
    text.unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "cannot tell which boot this is");
        String::new()
    })
}

/// Returns the time since the kernel started, sleep included: a gate that is started again
/// finds the clock where it left it.
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // It does not go back before its zero.
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> BootFiles {
        BootFiles {
            boot_id: folder.join("boot_id"),
            cmdline: folder.join("cmdline"),
            os_release: folder.join("os-release"),
            boot_count_variable: folder.join("variable"),
            settled: folder.join("settled"),
            trial: folder.join("trial.json"),
            uncounted: folder.join("uncounted"),
        }
    }

    #[test]
    fn this_boot_is_read_from_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        fs::write(&files.boot_id, "0a1b\n").unwrap();
        fs::write(&files.cmdline, "gpt roothash=ABC panic=10\n").unwrap();
        fs::write(
            &files.os_release,
            "ID=bistable\nIMAGE_VERSION=\"1.2~rc1\"\n",
        )
        .unwrap();
        let expected = ThisBoot {
            boot_id: "0a1b".to_owned(),
            root_hash: "abc".to_owned(),
            version: "1.2~rc1".to_owned(),
        };
        assert_eq!(files.read(), expected);
    }

    #[test]
    fn files_that_are_not_there_leave_it_empty() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = ThisBoot {
            boot_id: String::new(),
            root_hash: String::new(),
            version: String::new(),
        };
        assert_eq!(files(folder.path()).read(), nothing);
    }

    #[test]
    fn a_counted_boot_is_presumed_a_trial_until_it_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        assert_eq!(files.presumed_stakes(), Stakes::Settled);
        fs::write(&files.boot_count_variable, "").unwrap();
        assert_eq!(files.presumed_stakes(), Stakes::Trial);
        fs::write(&files.settled, "").unwrap();
        assert_eq!(files.presumed_stakes(), Stakes::Settled);
    }

    #[test]
    fn a_boot_that_nobody_counted_is_a_trial_if_the_updater_has_armed_its_image_before() {
        for (armed_in, root_hash, is_trial) in [
            ("earlier", "abc", true),
            ("earlier", "ABC", true),
            // The other slot's, which is still to come.
            ("this", "abc", false),
            ("earlier", "def", false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let files = files(folder.path());
            fs::write(&files.boot_id, "this\n").unwrap();
            fs::write(&files.cmdline, "roothash=abc").unwrap();
            let record =
                format!(r#"{{"boot_id":"{armed_in}","root_hash":"{root_hash}","tries":3}}"#);
            fs::write(&files.trial, record).unwrap();
            let context = format!("{root_hash} armed in {armed_in} boot");
            let stakes = files.presumed_stakes();
            assert_eq!(stakes == Stakes::Trial, is_trial, "{context}");
            files.note_uncounted().unwrap();
            assert_eq!(files.uncounted.exists(), is_trial, "{context}");
            fs::write(&files.settled, "").unwrap();
            assert_eq!(files.presumed_stakes(), Stakes::Settled, "{context}");
        }
    }

    #[test]
    fn a_boot_of_a_good_release_on_watch_is_settled_and_no_other() {
        for (path, settled) in [
            ("\\EFI\\Linux\\bistable_2+14-1.efi", true),
            ("\\EFI\\Linux\\bistable_2+1-14.efi", true),
            // Its last start is a trial.
            ("\\EFI\\Linux\\bistable_2+0-15.efi", false),
            ("\\EFI\\Linux\\bistable_2+2-1.efi", false),
            ("\\EFI\\Linux\\other+14-1.efi", false),
            ("", false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let files = files(folder.path());
            let units = path.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
            let variable: Vec<u8> = [6, 0, 0, 0].into_iter().chain(units).collect();
            fs::write(&files.boot_count_variable, variable).unwrap();
            assert_eq!(files.settle_watched().unwrap(), settled, "{path}");
            let stakes = files.presumed_stakes();
            assert_eq!(stakes == Stakes::Settled, settled, "{path}");
        }
    }

    #[test]
    fn the_clock_runs_from_the_start_of_the_kernel() {
        let before = since_boot();
        assert!(before > Duration::ZERO);
        assert!(since_boot() >= before);
    }
}
