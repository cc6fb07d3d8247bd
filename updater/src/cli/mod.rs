//! The `bistable` command: the updater's D-Bus interface for people and
//! scripts. It decides nothing; every refusal is the updater's.
//!
//! [`arguments`] says what can be asked, [`run`] asks it, `text` shows the
//! answer, `failure` explains what went wrong.

pub mod arguments;
pub mod bus;
mod failure;
mod model;
mod text;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use zbus::fdo::PropertiesProxy;
use zbus::names::InterfaceName;
use zbus::{Connection, OwnedObjectPath, Variant, connection};

use self::arguments::{Arguments, Check, Command, MarkBad, Plan, Stage};
use self::bus::{JobProxy, ManagerProxy};
use self::failure::CommandError;
pub use self::failure::Exit;
use self::model::{Barred, Entry, Job, Listed, Planned, Slot, Status};
use self::watch::{Display, Watched, watch};

const MANAGER: InterfaceName<'static> =
    InterfaceName::from_static_str_unchecked("io.bistable.Updater1.Manager");
/// The path of the job when there is none.
const NO_JOB: &str = "/";
/// The updater answers at once; MarkBad and MarkGood wait for a disk.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Where output goes, and what kind of place that is.
pub struct Output<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
    /// Whether somebody watches a terminal.
    pub screen: Screen,
}

impl fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("screen", &self.screen)
            .finish_non_exhaustive()
    }
}

/// Whether somebody watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    Terminal,
    None,
}

/// Does what the arguments ask for, and says how it went.
pub async fn run(arguments: &Arguments, output: &mut Output<'_>) -> Exit {
    let result = match Session::open(arguments).await {
        Ok(session) => session.obey(arguments, output).await,
        Err(error) => Err(error),
    };
    let error = match result {
        Ok(exit) => return exit,
        Err(error) => error,
    };
    let written = if arguments.json {
        writeln!(output.out, "{}", error.json())
    } else {
        let hint = error
            .hint()
            .map(|hint| format!("\n  hint: {hint}"))
            .unwrap_or_default();
        writeln!(output.err, "bistable: {error}{hint}")
    };
    // Nobody reads it; the exit code still tells.
    drop(written);
    error.exit()
}

struct Session {
    bus: Connection,
    manager: ManagerProxy<'static>,
}

impl Session {
    async fn open(arguments: &Arguments) -> Result<Self, CommandError> {
        let builder = match &arguments.bus {
            Some(address) => connection::Builder::address(address.as_str()),
            None => connection::Builder::system(),
        };
        let bus = builder.method_timeout(CALL_LIMIT).build().await?;
        let manager = ManagerProxy::new(&bus).await?;
        Ok(Self { bus, manager })
    }

    async fn obey(
        &self,
        arguments: &Arguments,
        output: &mut Output<'_>,
    ) -> Result<Exit, CommandError> {
        let say = Say { arguments };
        let manager = &self.manager;
        match &arguments.command {
            Command::Status => {
                let status = self.status().await?;
                say.data(output, &status, text::status)?;
            }
            Command::Check(check) => return self.check(check, arguments, output).await,
            Command::Plan(plan) => return self.plan(plan, arguments, output).await,
            Command::Stage(stage) => return self.stage(stage, arguments, output).await,
            Command::Reboot => {
                manager.reboot().await?;
                say.words(output, "the node reboots")?;
            }
            Command::Rollback(rollback) => {
                let job = manager.rollback(&rollback.reason).await?;
                if let Some(exit) = self.follow(job, arguments, output).await? {
                    return Ok(exit);
                }
                say.words(
                    output,
                    "the other release is ready; `bistable reboot` goes back to it",
                )?;
            }
            Command::History(history) => {
                let entries = manager.history(history.limit).await?;
                let entries: Vec<_> = entries.iter().map(Entry::read).collect();
                say.data(output, &entries, |entries| text::history(entries))?;
            }
            Command::Slots => {
                let slots: Vec<_> = manager.list_slots().await?.iter().map(Slot::read).collect();
                say.data(output, &slots, |slots| text::slots(slots))?;
            }
            Command::Releases => {
                let listed = manager.list_releases().await?;
                let listed: Vec<_> = listed.iter().map(Listed::read).collect();
                say.data(output, &listed, |listed| text::releases(listed))?;
            }
            Command::Barred => {
                let barred = manager.list_barred().await?;
                let barred: Vec<_> = barred.iter().map(Barred::read).collect();
                say.data(output, &barred, |barred| text::barred(barred))?;
            }
            Command::Cancel => {
                self.job().await?.cancel().await?;
                say.words(output, "the job was asked to stop")?;
            }
            Command::Pause => {
                self.job().await?.pause().await?;
                say.words(
                    output,
                    "the job holds still; `bistable resume` lets it go on",
                )?;
            }
            Command::Resume => {
                self.job().await?.resume().await?;
                say.words(output, "the job goes on")?;
            }
            Command::Proceed => return self.proceed(arguments, output).await,
            Command::Metrics => {
                let metrics = manager.metrics().await?;
                let data = json!({ "metrics": metrics });
                say.data(output, &data, |_| metrics.clone())?;
            }
            Command::Reload => {
                manager.reload().await?;
                say.words(output, "the settings are in force")?;
            }
            Command::Scrub => {
                manager.scrub().await?;
                say.words(output, "the images are read in the background")?;
            }
            Command::Forgive(forgive) => {
                manager.forgive(&forgive.root_hash).await?;
                say.words(output, "the image may be staged again")?;
            }
            Command::MarkGood => {
                manager.mark_good().await?;
                say.words(output, "the running release is good")?;
            }
            Command::MarkBad(MarkBad {
                reason,
                check,
                unit,
            }) => {
                let given = [("check", check), ("unit", unit)];
                let details = given.into_iter().filter(|(_, value)| !value.is_empty());
                let details = details
                    .map(|(name, value)| (name, Variant::from(value.as_str())))
                    .collect();
                manager.mark_bad(reason, details).await?;
                say.words(
                    output,
                    "the running release is bad; the node reboots to the other slot",
                )?;
            }
        }
        Ok(Exit::Done)
    }

    async fn status(&self) -> Result<Status, CommandError> {
        let properties = self
            .properties(self.manager.inner().path().to_owned().into())
            .await?;
        let properties = properties.get_all(MANAGER).await?;
        let job = match self.current_job().await? {
            Some(path) => {
                let job = InterfaceName::from_static_str_unchecked("io.bistable.Updater1.Job");
                let read = self.properties(path).await?.get_all(job).await;
                // One that ended in between is no longer of interest.
                read.ok().map(|properties| Job::read(&properties))
            }
            None => None,
        };
        Ok(Status::read(&properties, job))
    }

    async fn properties(
        &self,
        path: OwnedObjectPath,
    ) -> Result<PropertiesProxy<'static>, CommandError> {
        let destination = self.manager.inner().destination().to_owned();
        Ok(PropertiesProxy::builder(&self.bus)
            .destination(destination)
            .path(path)
            .build()
            .await?)
    }

    async fn current_job(&self) -> Result<Option<OwnedObjectPath>, CommandError> {
        let path = self.manager.current_job().await?;
        Ok((path.as_str() != NO_JOB).then_some(path))
    }

    async fn job(&self) -> Result<JobProxy<'static>, CommandError> {
        let path = self.current_job().await?.ok_or(CommandError::NoJob)?;
        Ok(JobProxy::builder(&self.bus).path(path).build().await?)
    }

    async fn proceed(
        &self,
        arguments: &Arguments,
        output: &mut Output<'_>,
    ) -> Result<Exit, CommandError> {
        let mut what = self.manager.proceed().await?;
        if what == "check" {
            // What it finds may be taken at once.
            if let Some(job) = self.current_job().await? {
                match watch(&self.bus, job, Display::Nothing).await? {
                    Watched::Ended(job) => {
                        if let Some(exit) = ended(*job)? {
                            return Ok(exit);
                        }
                    }
                    Watched::Left => return Ok(Exit::Left),
                }
            }
            what = self.manager.proceed().await?;
        }
        let held = Some(self.manager.held().await?).filter(|_| what == "nothing");
        let message = self.manager.held_message().await?;
        let message = Some(message).filter(|_| held.is_some());
        let answer = json!({ "what": what, "held": held, "message": message });
        Say { arguments }.data(output, &answer, |_| match (what.as_str(), &message) {
            ("stage", _) => "staging has begun; see `bistable status`\n".to_owned(),
            ("reboot", _) => "the node reboots\n".to_owned(),
            (_, Some(message)) => format!("nothing to do now: {message}\n"),
            (what, None) => format!("{what} has begun\n"),
        })?;
        Ok(Exit::Done)
    }

    async fn check(
        &self,
        check: &Check,
        arguments: &Arguments,
        output: &mut Output<'_>,
    ) -> Result<Exit, CommandError> {
        let say = Say { arguments };
        let job = self.manager.check_for_update().await?;
        // Too short for a bar; in JSON, the answer alone is one object.
        match watch(&self.bus, job, Display::Nothing).await? {
            Watched::Ended(job) => {
                if let Some(exit) = ended(*job)? {
                    return Ok(exit);
                }
            }
            Watched::Left => return Ok(Exit::Left),
        }
        let booted = self.manager.booted_version().await?;
        let available = Some(self.manager.available_version().await?).filter(|it| !it.is_empty());
        let answer = json!({ "booted_version": booted, "available_version": available });
        say.data(output, &answer, |_| match &available {
            Some(version) => format!("{version} is available; `bistable stage` takes it\n"),
            None => format!("up to date with {booted}\n"),
        })?;
        match (available, check.exit_code) {
            (Some(_), true) => Ok(Exit::UpdateAvailable),
            _ => Ok(Exit::Done),
        }
    }

    async fn plan(
        &self,
        plan: &Plan,
        arguments: &Arguments,
        output: &mut Output<'_>,
    ) -> Result<Exit, CommandError> {
        let mut options = HashMap::new();
        if plan.force {
            options.insert("force", Variant::from(true));
        }
        let version = plan.version.as_deref().unwrap_or_default();
        let job = self.manager.plan(version, options).await?;
        let display = match (arguments.json || arguments.quiet, output.screen) {
            (false, Screen::Terminal) => Display::bar(),
            // In JSON, the answer alone is one object.
            (true, _) | (false, Screen::None) => Display::Nothing,
        };
        let planned = match watch(&self.bus, job, display).await? {
            Watched::Ended(job) => job,
            Watched::Left => return Ok(Exit::Left),
        };
        let answer = Planned {
            version: planned.version.clone(),
            fetch_bytes: planned.plan_fetch,
            ways: planned.plan.clone(),
        };
        if let Some(exit) = ended(*planned)? {
            return Ok(exit);
        }
        Say { arguments }.data(output, &answer, text::plan)?;
        Ok(Exit::Done)
    }

    async fn stage(
        &self,
        stage: &Stage,
        arguments: &Arguments,
        output: &mut Output<'_>,
    ) -> Result<Exit, CommandError> {
        let say = Say { arguments };
        let mut options = HashMap::new();
        if stage.force {
            options.insert("force", Variant::from(true));
        }
        if let Some(tries) = stage.tries {
            options.insert("tries", Variant::from(tries));
        }
        let version = stage.version.as_deref().unwrap_or_default();
        let job = self.manager.stage(version, options).await?;
        if stage.no_wait {
            let begun = json!({ "job_path": job.as_str() });
            say.data(output, &begun, |_| {
                "staging has begun; see `bistable status`\n".to_owned()
            })?;
            return Ok(Exit::Done);
        }
        if let Some(exit) = self.follow(job, arguments, output).await? {
            return Ok(exit);
        }
        let staged = self.status().await?.staged_version.unwrap_or_default();
        say.words(
            output,
            &format!("{staged} is staged; `bistable reboot` tries it"),
        )?;
        Ok(Exit::Done)
    }

    /// Shows a job to its end; `None` if it went well.
    async fn follow(
        &self,
        job: OwnedObjectPath,
        arguments: &Arguments,
        output: &mut Output<'_>,
    ) -> Result<Option<Exit>, CommandError> {
        let display = if arguments.json {
            Display::json(output.out)
        } else if arguments.quiet {
            Display::Nothing
        } else if output.screen == Screen::Terminal {
            Display::bar()
        } else {
            Display::lines(output.out)
        };
        match watch(&self.bus, job, display).await? {
            Watched::Ended(job) => {
                let exit = ended(*job)?;
                if exit.is_some() {
                    Say { arguments }.words(output, "cancelled; the spare slot is empty")?;
                }
                Ok(exit)
            }
            Watched::Left => {
                Say { arguments }.words(output, "left; see `bistable status`")?;
                Ok(Some(Exit::Left))
            }
        }
    }
}

/// Returns how a job ended: `None` if well.
fn ended(job: Job) -> Result<Option<Exit>, CommandError> {
    match (job.result.as_deref(), job.error) {
        (Some("done"), _) => Ok(None),
        (Some("cancelled"), _) => Ok(Some(Exit::Cancelled)),
        (_, Some(error)) => Err(CommandError::of(error)),
        (result, None) => Err(CommandError::Unknown {
            name: result.unwrap_or_default().to_owned(),
            message: "the job failed and does not say why".to_owned(),
        }),
    }
}

/// Says things in the way that was asked for.
struct Say<'a> {
    arguments: &'a Arguments,
}

impl Say<'_> {
    /// Says what was asked for: as JSON, or as a text.
    fn data<T: Serialize>(
        &self,
        output: &mut Output<'_>,
        data: &T,
        text: impl Fn(&T) -> String,
    ) -> Result<(), CommandError> {
        if self.arguments.json {
            let json = serde_json::to_string(data).expect("no map here has keys other than texts");
            writeln!(output.out, "{json}")?;
        } else if !self.arguments.quiet {
            write!(output.out, "{}", text(data))?;
        }
        output.out.flush()?;
        Ok(())
    }

    /// Says to people that something was done.
    fn words(&self, output: &mut Output<'_>, words: &str) -> Result<(), CommandError> {
        if !self.arguments.json && !self.arguments.quiet {
            writeln!(output.out, "{words}")?;
        }
        Ok(())
    }
}
