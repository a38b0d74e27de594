//! What operators ask of a running daemon, through its control socket.

use std::path::PathBuf;

use clap::Args;
use hyper::Method;

use super::failure::{Failure, read_text};
use super::table::{bytes, count, nanoseconds, say, say_json, table};
use crate::control::client::{Client, ClientError};
use crate::control::{Device, ReloadAnswer, Sessions, Stats, Tenant};
use crate::state;

/// Which daemon.
#[derive(Args)]
pub(super) struct Socket {
    /// The daemon's control socket
    /// [default: control.sock in $TURNSTILE_STATE, $XDG_RUNTIME_DIR/turnstile or /run/turnstile]
    #[arg(long, value_name = "SOCKET", env = "TURNSTILE_CONTROL")]
    socket: Option<PathBuf>,
}

impl Socket {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let state = std::env::var_os("TURNSTILE_STATE").map(PathBuf::from);
        let path = self
            .socket
            .clone()
            .unwrap_or_else(|| state::control_socket(&state.unwrap_or_else(state::default_path)));
        Client::new(&path).map_err(failure)
    }
}

/// What went wrong, for people.
pub(super) fn failure(error: ClientError) -> Failure {
    let text = error.to_string();
    match error {
        ClientError::Connect { source, .. } => Failure::machine(
            text,
            match source.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "you may not control it; ask for membership of the socket's group"
                }
                _ => "start one with `turnstile serve`, or name its socket with --socket",
            },
        ),
        ClientError::Broken(_) => Failure::machine(text, "look at the daemon's own output"),
        ClientError::Refused(problem) => {
            for mistake in &problem.mistakes {
                let crate::control::Mistake { line, column, path, problem } = mistake;
                eprintln!("{line}:{column}: {path}: {problem}");
            }
            for change in &problem.restart {
                eprintln!("{}", change_line(change));
            }
            Failure::check(text, problem.fix)
        }
    }
}

fn change_line(change: &crate::control::Change) -> String {
    let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let tenant = change.tenant.as_ref().map_or(String::new(), |t| format!("tenant {t}: "));
    format!("{tenant}{}: {} -> {}", change.path, or_dash(&change.before), or_dash(&change.after))
}

/// A path of the API with a tenant's name in it. Names are letters, digits, `-`, `_` and `.`; anything
/// else is no tenant's and is sent so that the daemon can say so.
fn tenant_path(tenant: &str, rest: &str) -> String {
    use std::fmt::Write;
    let mut path = String::from("/v1/tenants/");
    for byte in tenant.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            path.push(byte.into());
        } else {
            // Writing into a string does not fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path + rest
}

/// List the tenants of a running daemon, or one tenant's sessions and objects
#[derive(Args)]
pub(super) struct Tenants {
    /// Show this tenant's sessions and objects
    tenant: Option<String>,
    #[command(flatten)]
    socket: Socket,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Tenants {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.socket.client()?;
        match self.tenant {
            None => list(&client, self.json),
            Some(tenant) => show(&client, &tenant, self.json),
        }
    }
}

/// What to call a tenant's state.
pub(super) fn state_word(tenant: &Tenant) -> String {
    match (tenant.revoked, tenant.paused) {
        (true, _) if tenant.state == "absent" => "revoked, absent".into(),
        (true, _) => "revoked".into(),
        (false, true) => format!("{}, paused", tenant.state),
        (false, false) => tenant.state.clone(),
    }
}

fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let tenants: Vec<Tenant> = client.get("/v1/tenants").map_err(failure)?;
    if json {
        return say_json(&tenants);
    }
    let mut table = table(&[
        "tenant",
        "attach",
        "state",
        "sessions#",
        "memory#",
        "of#",
        "commands#",
        "denied#",
        "failed#",
        "moved#",
        "p50#",
        "p99#",
    ]);
    for t in &tenants {
        let memory = t.resources.get("buffer_bytes").copied().unwrap_or_default();
        let latency = |f: fn(&crate::control::Latency) -> u64| {
            t.latency.as_ref().map_or("-".into(), |l| nanoseconds(f(l)))
        };
        table.add_row([
            t.name.clone(),
            t.attach.clone(),
            state_word(t),
            t.sessions.to_string(),
            bytes(memory.used),
            bytes(memory.limit),
            count(t.commands),
            count(t.denied),
            count(t.failed),
            bytes(t.bytes),
            latency(|l| l.p50_ns),
            latency(|l| l.p99_ns),
        ]);
    }
    say(table)
}

fn show(client: &Client, tenant: &str, json: bool) -> Result<(), Failure> {
    let held: Sessions = client.get(&tenant_path(tenant, "/sessions")).map_err(failure)?;
    if json {
        return say_json(&held);
    }
    let mut sessions = table(&["session#", "state", "objects#", "address space#", "size#"]);
    for s in &held.sessions {
        sessions.add_row([
            s.number.to_string(),
            if s.closing { "closing" } else { "open" }.into(),
            s.objects.to_string(),
            format!("{:#x}", s.arena_base),
            bytes(s.arena_bytes),
        ]);
    }
    say(sessions)?;
    let mut objects = table(&["session#", "object", "size#", "state"]);
    for o in &held.objects {
        objects.add_row([
            o.session.to_string(),
            o.kind.clone(),
            if o.bytes > 0 { bytes(o.bytes) } else { String::new() },
            if o.live { "live" } else { "coming or going" }.into(),
        ]);
    }
    say(objects)?;
    if held.truncated {
        say("(there are more objects than are listed)")?;
    }
    Ok(())
}

/// Stop serving a tenant; what it holds stays
#[derive(Args)]
pub(super) struct Pause {
    /// The tenant
    tenant: String,
    #[command(flatten)]
    socket: Socket,
}

/// Serve a paused tenant again, and let a revoked one come back
#[derive(Args)]
pub(super) struct Resume {
    /// The tenant
    tenant: String,
    #[command(flatten)]
    socket: Socket,
}

/// Take away everything a tenant holds, or one of its sessions
///
/// When the command returns, nothing of it resolves and nothing completes as success; its memory is
/// given back as soon as the GPU has let go of it. A revoked tenant gets no device until it is
/// resumed.
#[derive(Args)]
pub(super) struct Revoke {
    /// The tenant
    tenant: String,
    /// Only this session, by the number that `tenants TENANT` shows
    #[arg(long, value_name = "NUMBER")]
    session: Option<u64>,
    #[command(flatten)]
    socket: Socket,
}

/// End a tenant's guest, process or connection; unless it is revoked it may come back
#[derive(Args)]
pub(super) struct Kill {
    /// The tenant
    tenant: String,
    #[command(flatten)]
    socket: Socket,
}

fn post(socket: &Socket, tenant: &str, action: &str) -> Result<(), Failure> {
    socket.client()?.order(Method::POST, &tenant_path(tenant, action)).map_err(failure)
}

impl Pause {
    pub(super) fn run(self) -> Result<(), Failure> {
        post(&self.socket, &self.tenant, "/pause")
    }
}

impl Resume {
    pub(super) fn run(self) -> Result<(), Failure> {
        post(&self.socket, &self.tenant, "/resume")
    }
}

impl Revoke {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.session {
            None => post(&self.socket, &self.tenant, "/revoke"),
            Some(number) => {
                let path = tenant_path(&self.tenant, &format!("/sessions/{number}"));
                self.socket.client()?.order(Method::DELETE, &path).map_err(failure)
            }
        }
    }
}

impl Kill {
    pub(super) fn run(self) -> Result<(), Failure> {
        post(&self.socket, &self.tenant, "/kill")
    }
}

/// Put another policy in force in a running daemon, all of it or nothing
///
/// Shows what changes, then does it. What tightens applies to live sessions at once: a quota below
/// what is held allows no more, a right that is gone is denied from the next command, a tenant that is
/// gone is revoked and ended.
#[derive(Args)]
pub(super) struct Reload {
    /// The policy, a JSON document
    file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    socket: Socket,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Reload {
    pub(super) fn run(self) -> Result<(), Failure> {
        let text = read_text(&self.file)?;
        let client = self.socket.client()?;
        let put = |path, text: String| -> Result<ReloadAnswer, Failure> {
            client.send(Method::PUT, path, text).map_err(failure)
        };
        let would = put("/v1/policy?dry_run=true", text.clone())?;
        if !self.json {
            say(would.text.trim_end())?;
        }
        let done = if self.dry_run { would } else { put("/v1/policy", text)? };
        if self.json {
            say_json(&done)?;
        } else if done.applied {
            let (took, pause) = (nanoseconds(done.took_ns), nanoseconds(done.pause_ns));
            say(format!("in force after {took}; commands waited {pause}"))?;
        } else {
            say("nothing was changed")?;
        }
        for failed in &done.failed {
            eprintln!("tenant {} did not start: {}", failed.tenant, failed.why);
        }
        if done.failed.is_empty() { Ok(()) } else { Err(Failure::said()) }
    }
}

/// Show totals of a running daemon
#[derive(Args)]
pub(super) struct ShowStats {
    #[command(flatten)]
    socket: Socket,
    /// Print JSON instead of a table
    #[arg(long, conflicts_with = "prometheus")]
    json: bool,
    /// Print the metrics as Prometheus reads them
    #[arg(long)]
    prometheus: bool,
}

impl ShowStats {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.socket.client()?;
        if self.prometheus {
            return say(client.text("/metrics").map_err(failure)?.trim_end());
        }
        let stats: Stats = client.get("/v1/stats").map_err(failure)?;
        let devices: Vec<Device> = client.get("/v1/devices").map_err(failure)?;
        if self.json {
            return say_json(&serde_json::json!({ "stats": stats, "devices": devices }));
        }
        let mut table = table(&["what", "value#"]);
        for device in &devices {
            let memory = bytes(device.memory_bytes);
            table.add_row([format!("device {} ({})", device.name, device.kind), memory]);
        }
        let tenants = format!("{} of {}", stats.attached, stats.tenants);
        for (what, value) in [
            ("daemon", format!("{}, process {}", stats.version, stats.pid)),
            ("up", nanoseconds(stats.uptime_ns)),
            ("tenants attached", tenants),
            ("commands", count(stats.commands)),
            ("denied", count(stats.denied)),
            ("failed", count(stats.failed)),
            ("moved", bytes(stats.bytes)),
            ("GPU time", nanoseconds(stats.gpu_ns)),
            ("most memory", stats.peak_rss_bytes.map_or("-".into(), bytes)),
        ] {
            table.add_row([what.to_owned(), value]);
        }
        say(table)?;
        if stats.audit_stopped {
            say("the audit log takes no records: nobody is served until it does")?;
        }
        Ok(())
    }
}

/// Follow the audit log of a running daemon
#[derive(Args)]
pub(super) struct Tail {
    #[command(flatten)]
    socket: Socket,
    /// End after so many records
    #[arg(long, short = 'n', value_name = "COUNT")]
    count: Option<u64>,
}

impl Tail {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut said = Ok(());
        if left == 0 {
            return Ok(());
        }
        let each = |kind: &str, data: &str| {
            match kind {
                "record" => {
                    said = say(data);
                    left -= 1;
                }
                "dropped" => eprintln!("({data} records came too fast to show)"),
                _ => {}
            }
            said.is_ok() && left > 0
        };
        self.socket.client()?.events("/v1/audit/stream", each).map_err(failure)?;
        said
    }
}

#[cfg(test)]
mod tests {
    use super::tenant_path;

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(tenant_path("a-b_c.1", "/revoke"), "/v1/tenants/a-b_c.1/revoke");
        assert_eq!(tenant_path("../x?y z", ""), "/v1/tenants/..%2Fx%3Fy%20z");
    }
}
