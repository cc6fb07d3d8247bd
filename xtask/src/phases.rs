//! Where the time goes: the phases of a run, in seconds.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;

/// The phases of a run so far, in order.
#[derive(Debug, Default)]
pub(crate) struct Phases {
    rows: Vec<(String, Duration)>,
}

impl Phases {
    /// Does `work`, and keeps how long it took, however it ends.
    pub(crate) fn time<T>(&mut self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = work();
        self.rows.push((what.into(), start.elapsed()));
        result
    }

    /// Adds the stories told below `folder` since `start`, in the words of their own logs.
    pub(crate) fn add_stories(&mut self, folder: &Path, start: std::time::SystemTime) {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut stories: Vec<_> = entries
            .filter_map(|entry| {
                let path = entry.path().join("timings.json");
                let told = fs::metadata(&path).ok()?.modified().ok()?;
                let timings: Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
                let seconds =
                    Duration::try_from_secs_f64(timings.get("seconds")?.as_f64()?).ok()?;
                let name = timings.get("story")?.as_str()?.to_owned();
                (told >= start).then_some((format!("  story {name}"), seconds))
            })
            .collect();
        stories.sort();
        self.rows.extend(stories);
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:44}{:>9}", "phase", "seconds")?;
        for (what, took) in &self.rows {
            writeln!(f, "{what:44}{:>9.1}", took.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_that_fails_is_in_the_table_too() {
        let mut phases = Phases::default();
        assert!(phases.time("good", || Ok(7)).is_ok());
        let failed: Result<()> = phases.time("bad", || anyhow::bail!("it is"));
        assert!(failed.is_err());
        let table = phases.to_string();
        assert!(
            table.contains("\ngood ") && table.contains("\nbad "),
            "{table}"
        );
    }

    #[test]
    fn only_stories_of_this_run_are_listed() {
        let folder = tempfile::tempdir().expect("a folder");
        let story = folder.path().join("boot");
        fs::create_dir(&story).expect("a folder");
        fs::write(
            story.join("timings.json"),
            "{\"story\": \"boot\", \"seconds\": 12.34}",
        )
        .expect("written");
        let (mut now, mut later) = (Phases::default(), Phases::default());
        now.add_stories(folder.path(), std::time::UNIX_EPOCH);
        assert!(now.to_string().contains("story boot"), "{now}");
        let hour = Duration::from_secs(3600);
        later.add_stories(folder.path(), std::time::SystemTime::now() + hour);
        assert!(!later.to_string().contains("story boot"), "{later}");
    }
}
