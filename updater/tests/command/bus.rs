use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use tempfile::TempDir;

/// A bus of its own, which ends with it.
pub(crate) struct Bus {
    daemon: Child,
    address: String,
    _folder: TempDir,
}

impl Bus {
    /// Starts a bus with `policy` over the system bus's defaults: whoever may
    /// connect may call nobody.
    pub(crate) fn start(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("policy.conf"), policy).unwrap();
        let config = format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={folder}/bus</listen>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>{folder}/policy.conf</include>
</busconfig>"#,
            folder = folder.path().display(),
        );
        let path = folder.path().join("bus.conf");
        fs::write(&path, config).unwrap();
        let mut command = host_tools::oracle("dbus-daemon");
        command
            .arg(format!("--config-file={}", path.display()))
            .args(["--nofork", "--nopidfile", "--print-address"])
            .stdout(Stdio::piped());
        let mut daemon = command.spawn().unwrap();
        let mut address = String::new();
        let mut out = BufReader::new(daemon.stdout.take().unwrap());
        out.read_line(&mut address).unwrap();
        assert!(address.starts_with("unix:"), "dbus-daemon said {address:?}");
        Self {
            daemon,
            address: address.trim().to_owned(),
            _folder: folder,
        }
    }

    /// Lets everybody do everything.
    pub(crate) fn open_policy() -> String {
        r#"<busconfig><policy context="default">
             <allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
           </policy></busconfig>"#
            .to_owned()
    }

    /// What a node has.
    pub(crate) fn shipped_policy() -> String {
        let path = "../systemd-units/dbus/io.bistable.Updater1.conf";
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}
