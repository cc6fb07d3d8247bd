//! The `bistable` command; see `updater::cli`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use updater::cli::arguments::Arguments;
use updater::cli::{Output, Screen, run};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(told) => {
            // Help and version come this way too, with exit code 0.
            drop(told.print());
            return ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            drop(writeln!(io::stderr(), "bistable: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let screen = match io::stderr().is_terminal() && io::stdout().is_terminal() {
        true => Screen::Terminal,
        false => Screen::None,
    };
    let mut output = Output {
        out: &mut io::stdout(),
        err: &mut io::stderr(),
        screen,
    };
    runtime.block_on(run(&arguments, &mut output)).into()
}
