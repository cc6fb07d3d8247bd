//! PID 1 of the initramfs. See the documentation of the library.

use std::error::Error;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use init_integration::console::Console;
use init_integration::kernel::Linux;
use init_integration::plan::{Kernel as _, carry_out, ground, plan};
use init_integration::report::Chain;
use init_integration::torn_count::{MEND, mend_names};

/// The list of modules that the image builder put beside us.
const MODULES: &str = "/etc/modules";

fn main() -> ExitCode {
    if std::process::id() != 1 {
        let mut arguments = std::env::args_os().skip(1);
        if arguments.next().is_some_and(|word| word == MEND)
            && let Some(esp) = arguments.next()
        {
            return mend(Path::new(&esp));
        }
        // It would mount over, and then restart, the machine of whoever tries it.
        let refusal = b"bistable-init: only the kernel starts this, as PID 1 of an initramfs\n";
        return match io::stderr().write_all(refusal) {
            Ok(()) | Err(_) => ExitCode::from(2),
        };
    }
    // Nothing here is meant to panic. If it does after all, it is told like every other
    // failure, and ends in the kernel's panic, which restarts.
    std::panic::set_hook(Box::new(|panic| {
        let mut kernel = Linux::default();
        kernel.give_up(&format!("cannot boot: {panic}"));
    }));
    let mut kernel = Linux::default();
    let why = match boot(&mut kernel) {
        Ok(()) => "systemd came back".to_owned(),
        Err(error) => Chain(&*error).to_string(),
    };
    kernel.give_up(&format!("cannot boot: {why}"));
    // The end of PID 1 is a panic.
    ExitCode::FAILURE
}

/// Does the part of PID 1 that must not hold it up.
fn mend(esp: &Path) -> ExitCode {
    let mut console = Console::default();
    console.open();
    match mend_names(esp) {
        Ok(forgotten) => {
            for torn in forgotten {
                console.complain(&format!("forgotten: {torn}"));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            console.say(&format!("{}: {}", esp.display(), Chain(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Goes the whole way. Does not return when it worked.
fn boot(kernel: &mut Linux) -> Result<(), Box<dyn Error>> {
    carry_out(&ground(), kernel)?;
    let cmdline = fs::read("/proc/cmdline").map_err(|source| Unreadable {
        what: "/proc/cmdline",
        source,
    })?;
    let modules = match fs::read_to_string(MODULES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        outcome => outcome.map_err(|source| Unreadable {
            what: MODULES,
            source,
        })?,
    };
    let plan = plan(&String::from_utf8_lossy(&cmdline), &modules)?;
    for remark in &plan.remarks {
        kernel.say(remark);
    }
    carry_out(&plan.steps, kernel)?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}")]
struct Unreadable {
    what: &'static str,
    source: io::Error,
}
