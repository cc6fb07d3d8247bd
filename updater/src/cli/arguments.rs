use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};

/// Drives the updater of this node.
#[derive(Debug, Parser)]
#[command(name = "bistable", version, max_term_width = 100, after_long_help = EXIT_CODES)]
pub struct Arguments {
    /// Speak to the updater on another bus than the system's
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub bus: Option<String>,

    /// Print JSON for machines: one object, or one line per step of a job
    #[arg(long, global = true)]
    pub json: bool,

    /// Print nothing but errors
    #[arg(long, short, global = true, conflicts_with = "json")]
    pub quiet: bool,

    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
   0  it is done (or, with --no-wait, begun)
   1  it failed: network, metadata, disk; the error says which
   2  the command line makes no sense
   3  refused: by the state of the node, by its rules, or for lack of rights
   4  the updater cannot be reached
   5  cancelled; the spare slot is empty
   6  left while the work goes on (second Ctrl-C)
  10  an update is available (check --exit-code only)

The same work is open to programs over D-Bus: io.bistable.Updater1 on the system bus.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what runs, what is staged, and why the node last rolled back
    Status,
    /// Ask the repository for a newer release
    Check(Check),
    /// Write a release to the spare slot, and arm it for the next reboot
    #[command(after_help = "\
A first Ctrl-C asks the updater to cancel, which empties the spare slot; a second one leaves \
while the updater goes on. The work is the updater's: it does not end with this command.")]
    Stage(Stage),
    /// Reboot the node, into the trial of the staged release if there is one
    Reboot,
    /// Go back to the release in the other slot
    #[command(after_help = "\
On a good node, the other release is armed and `bistable reboot` tries it. On trial, the \
release that runs is marked bad, and the reboot leads back.")]
    Rollback(Rollback),
    /// Show what happened to this node, newest first
    History(History),
    /// Show both slots
    Slots,
    /// Show the releases that the last check found
    Releases,
    /// Show the images that failed on this node
    Barred,
    /// Stop the job at work
    Cancel,
    /// Let an image that failed here be staged again
    Forgive(Forgive),
    /// End the trial well (the health gate's word)
    MarkGood,
    /// End the trial badly, and reboot to the other slot (the health gate's word)
    MarkBad(MarkBad),
}

#[derive(Debug, Args)]
pub struct Check {
    /// Exit with 10 if an update is available
    #[arg(long)]
    pub exit_code: bool,
}

#[derive(Debug, Args)]
pub struct Stage {
    /// The release; without it, the one that the channel names
    // An empty one is a script's variable that was not set: it must not take
    // what the channel names.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub version: Option<String>,
    /// Take it even if it failed here before, or is below the floor
    #[arg(long, requires = "version")]
    pub force: bool,
    /// How often a trial may be attempted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub tries: Option<u32>,
    /// Return when the work has begun
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Args)]
pub struct Rollback {
    /// Why; it goes into the history
    #[arg(long, value_name = "TEXT", default_value = "asked for by an operator")]
    pub reason: String,
}

#[derive(Debug, Args)]
pub struct History {
    /// How many entries; 0 is all
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct Forgive {
    /// The image's root hash, as `bistable barred` shows it
    #[arg(value_name = "HASH")]
    pub root_hash: String,
}

#[derive(Debug, Args)]
pub struct MarkBad {
    /// Why; it goes into the record of the rollback
    #[arg(long, value_name = "TEXT", default_value = "marked bad by an operator")]
    pub reason: String,
    /// The health check that failed
    #[arg(long, value_name = "NAME", default_value = "")]
    pub check: String,
    /// The unit that failed
    #[arg(long, value_name = "NAME", default_value = "")]
    pub unit: String,
}
