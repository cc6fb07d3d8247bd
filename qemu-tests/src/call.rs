//! Programs that are run on a node, as from a shell that it does not have.
//!
//! Each call is a unit from outside; what the program says goes to a file in
//! `/run`, which the probe reads.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bus::Bus;
use crate::deadline::{Deadline, Look};
use crate::node::Node;
use crate::probe::{PROBE_FOLDER, Request};
use crate::smbios::Handed;

/// A call of a program.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// What the call goes by: part of a unit's name.
    pub name: &'static str,
    /// The program and its arguments, as in `ExecStart=`.
    pub line: &'static str,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit status.
    pub code: u64,
    /// What it printed.
    pub out: String,
    /// What it complained of.
    pub err: String,
}

impl Call {
    fn unit(&self) -> String {
        format!("call-{}.service", self.name)
    }

    fn file(&self, stream: &str) -> String {
        format!("/run/call-{}.{stream}", self.name)
    }

    /// Adds the call's unit to what is handed in; it runs when it is asked to.
    #[must_use]
    pub fn hand_in(&self, handed: Handed) -> Handed {
        let unit = format!(
            "[Unit]\nDescription=A call: {line}\nRequiresMountsFor={PROBE_FOLDER}\n\
             [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={line}\n\
             StandardOutput=truncate:{out}\nStandardError=truncate:{err}\n",
            line = self.line,
            out = self.file("out"),
            err = self.file("err"),
        );
        handed.unit(&self.unit(), &unit)
    }

    /// Runs the call to its end, which must be with the exit status `code`. Each can be
    /// run once in a boot.
    ///
    /// # Errors
    ///
    /// Fails when it ends otherwise, with what it said; or has not ended at the deadline.
    pub async fn exits(
        &self,
        node: &Node,
        bus: &Bus,
        code: u64,
        deadline: Deadline,
    ) -> Result<Ran> {
        let ran = self
            .run(node, bus, deadline)
            .await
            .with_context(|| format!("cannot run `{}`", self.line))?;
        ensure!(
            ran.code == code,
            "`{}` did not exit with {code}: {ran:?}",
            self.line
        );
        Ok(ran)
    }

    async fn run(&self, node: &Node, bus: &Bus, deadline: Deadline) -> Result<Ran> {
        let name = self.unit();
        bus.start_unit(&name).await?;
        deadline
            .until(format_args!("{name} to end"), async || {
                let unit = bus.unit(&name, "Unit").await?;
                let state = unit.get("ActiveState").and_then(Value::as_str);
                Ok(match state {
                    // It remains after it has exited; what fails does not.
                    Some("active" | "failed") => Look::Found(()),
                    other => Look::NotYet(format!("it is {other:?}")),
                })
            })
            .await?;
        let service = bus.unit(&name, "Service").await?;
        let code = service.get("ExecMainStatus").and_then(Value::as_u64);
        Ok(Ran {
            code: code.with_context(|| format!("{name} has no exit status"))?,
            out: node.probe(&Request::Read(&self.file("out"))).await?,
            err: node.probe(&Request::Read(&self.file("err"))).await?,
        })
    }
}
