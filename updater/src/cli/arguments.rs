use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};

/// Drives the updater of this node.
#[derive(Debug, Parser)]
#[command(name = "bistable", version, max_term_width = 100, after_long_help = AFTER_HELP)]
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

const AFTER_HELP: &str = "\
Examples:
  bistable status           what runs, what is staged, what the node waits for
  bistable check            is there something newer?
  bistable stage            write it to the spare slot and arm it
  bistable reboot           try it; the node comes back by itself if it is no good

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
    /// Show what staging a release would take, and by which ways; write nothing
    #[command(after_help = "\
Each part of a release (hash tree, root image, kernel image) can come in several ways; the \
updater takes the cheapest that this server and this node can do.

Examples:
  bistable plan             what the channel names
  bistable plan 1.3.0 --json")]
    Plan(Plan),
    /// Write a release to the spare slot, and arm it for the next reboot
    #[command(after_help = "\
A first Ctrl-C asks the updater to cancel, which empties the spare slot; a second one leaves \
while the updater goes on. The work is the updater's: it does not end with this command.

Examples:
  bistable stage                  what the channel names
  bistable stage 1.3.0 --no-wait  begin, and return
  bistable stage 1.1.0 --force    an older one, or one that failed here")]
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
    /// Stop the job at work; a release half written leaves the spare slot empty
    Cancel,
    /// Hold the job at work still
    #[command(after_help = "\
The spare slot cannot boot meanwhile. The updater must not be restarted: a stage would begin \
anew, and find what it has written.

Example, while a batch job needs the disk:
  bistable pause
  bistable resume")]
    Pause,
    /// Let the job at work go on, also one that waits for a window
    Resume,
    /// Do what the settings allow now, as the timer does every quarter of an hour
    #[command(after_help = "\
`automatic` and the windows of /etc/bistable/updater.toml, the channel's rollout and what \
failed here before decide whether that is nothing, a check, staging or a reboot. `bistable \
status` says what holds it.

Examples:
  bistable proceed          do it, and say what or why nothing
  bistable proceed --json   {\"what\":\"nothing\",\"held\":\"window-closed\",\"message\":\"…\"}")]
    Proceed,
    /// Read the settings anew, after a change of /etc/bistable
    #[command(after_help = "\
Wrong settings are refused by file, line and key, and the old ones stay in force. \
`systemctl reload bistable-updater` does the same.

Example:
  bistable reload && bistable status")]
    Reload,
    /// Let an image that failed here be staged again
    #[command(after_help = "\
Example:
  bistable barred
  bistable forgive 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a")]
    Forgive(Forgive),
    /// Read the images in both slots through now, and mend what is rotten
    #[command(after_help = "\
The updater does the same once a week (`scrub` in its settings), gently and in the background. \
What was found stands in `bistable history` (mended, rotten), how far it is in `bistable metrics`.

Example:
  bistable scrub")]
    Scrub,
    /// Show the node in numbers, in the text format of Prometheus
    #[command(after_help = "\
The updater keeps the same text in /run/bistable/metrics.prom, for node_exporter's textfile \
collector.

Example:
  bistable metrics | grep bistable_booted_info")]
    Metrics,
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
pub struct Plan {
    /// The release; without it, the one that the channel names
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub version: Option<String>,
    /// Plan it even if it failed here before, or is below the floor
    #[arg(long, requires = "version")]
    pub force: bool,
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
