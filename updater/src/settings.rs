//! The settings in force: read at the start, and anew when somebody asks.
//!
//! Wrong settings never stop the daemon, which is the way out of a bad release:
//! the last good ones stay in force, and without any the node does nothing by
//! itself. Either way it says what is wrong.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{Config, ReadConfigError, Sources};
use crate::driver::Handle;
use crate::policy::{MachineId, Rules, Source};
use crate::refusal::{Chain, Refused};

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub config: Config,
    /// Why it is not what the files say, if so.
    pub mistake: Option<String>,
}

/// Reads the settings for the first time.
pub fn read_first(sources: &Sources) -> Read {
    match read(sources) {
        Ok(config) => Read {
            config,
            mistake: None,
        },
        Err(error) => Read {
            config: Config::default(),
            mistake: Some(Chain(&error).to_string()),
        },
    }
}

/// Reads the settings, and tells which keys are not known.
pub fn read(sources: &Sources) -> Result<Config, ReadConfigError> {
    let (config, unknown) = Config::read(&sources.files()?)?;
    for key in unknown {
        tracing::warn!("{key}");
    }
    Ok(config)
}

impl Read {
    /// Returns the part that decides what the node does by itself.
    pub fn rules(&self) -> Rules {
        Rules {
            mistake: self.mistake.clone(),
            ..rules(&self.config)
        }
    }
}

fn rules(config: &Config) -> Rules {
    Rules {
        automatic: config.automatic,
        windows: config.windows.clone(),
        source: config.repository.clone().map(|repository| Source {
            repository,
            channel: config.channel.clone(),
        }),
        tries: config.tries,
        mistake: None,
    }
}

/// Reads the settings anew, and tells everybody whom they concern.
#[derive(Debug, Clone)]
pub struct Settings {
    sources: Arc<Sources>,
    config: watch::Sender<Arc<Config>>,
    handle: Handle,
}

impl Settings {
    /// The settings are those that `config` sends, and come from `sources`.
    pub fn new(sources: Sources, config: watch::Sender<Arc<Config>>, handle: Handle) -> Self {
        Self {
            sources: Arc::new(sources),
            config,
            handle,
        }
    }

    /// Reads the settings anew. They hold for the next job, and for the windows
    /// and the speed of the one at work.
    ///
    /// # Errors
    /// Names file, line and key. The settings that were in force stay so.
    pub async fn reload(&self) -> Result<(), Refused> {
        let sources = Arc::clone(&self.sources);
        let read = tokio::task::spawn_blocking(move || read(&sources))
            .await
            .expect("nothing that reads the settings panics");
        match read {
            Ok(config) => {
                tracing::info!(
                    automatic = config.automatic.as_str(),
                    channel = config.channel.as_str(),
                    "settings"
                );
                let rules = rules(&config);
                self.config.send_replace(Arc::new(config));
                self.handle.obey(rules).await;
                Ok(())
            }
            Err(error) => {
                let mistake = Chain(&error).to_string();
                tracing::error!(error = mistake, "the settings are wrong; the old ones stay");
                self.handle.keep_settings(mistake.clone()).await;
                Err(Refused::BadSettings(mistake))
            }
        }
    }
}

/// Reads the machine's id.
pub fn machine_id(file: &Path) -> MachineId {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "this machine has no id");
        String::new()
    });
    MachineId::new(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Automatic;

    #[test]
    fn wrong_settings_at_the_start_leave_a_node_that_does_nothing_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("updater.toml");
        let text = "repository = \"https://one/\"\nautomatic = \"reboot\"\ntries = 99\n";
        std::fs::write(&file, text).unwrap();
        let sources = Sources::Files(vec![file.clone()]);
        let read = read_first(&sources);
        assert_eq!(read.config, Config::default());
        let rules = read.rules();
        assert_eq!(rules.automatic, Automatic::Off);
        let told = format!(
            "{}:3: tries is not a whole number from 1 to 10",
            file.display()
        );
        assert_eq!(rules.mistake, Some(told));

        std::fs::write(&file, text.replace("99", "9")).unwrap();
        let rules = read_first(&sources).rules();
        assert_eq!((rules.automatic, rules.tries), (Automatic::Reboot, 9));
        assert_eq!(rules.mistake, None);
    }

    #[test]
    fn a_machine_without_an_id_is_one_all_the_same() {
        let id = machine_id(Path::new("/nonexistent/machine-id"));
        assert_eq!(id, MachineId::new(""));
    }
}
