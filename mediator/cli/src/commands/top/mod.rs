//! `turnstile top`: tenants live, with keys to act on them.

mod screen;
mod view;

use std::time::{Duration, Instant};

use clap::Args;
use hyper::Method;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::failure::Failure;
use super::operator::{Socket, failure};
use crate::control::client::Client;
use crate::control::{Device, Tenant};
use screen::draw;
use view::{Action, Key, View};

/// Watch the tenants of a running daemon live
///
/// Keys: arrows choose a tenant, s changes the order, p pauses or resumes it, r revokes it, k kills it
/// (each asks first), q ends.
#[derive(Args)]
pub(super) struct Top {
    #[command(flatten)]
    socket: Socket,
    /// Time between two looks, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// Print so many screens as text instead, without a terminal
    #[arg(long, value_name = "COUNT", num_args = 0..=1, default_missing_value = "1")]
    plain: Option<u32>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds")?;
    if !(0.1..=3600.0).contains(&seconds) {
        return Err("between 0.1 and 3600 seconds".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Size of a screen without a terminal.
const PLAIN: (u16, u16) = (118, 24);

impl Top {
    pub(super) fn run(self) -> Result<(), Failure> {
        let client = self.socket.client()?;
        let devices: Vec<Device> = client.get("/v1/devices").map_err(failure)?;
        let mut view = View::new(devices.into_iter().next().map_or(String::new(), |d| d.name));
        look(&client, &mut view)?;
        match self.plain {
            Some(count) => self.plain(&client, &mut view, count),
            None => {
                let mut terminal = ratatui::try_init().map_err(|e| no_terminal(&e))?;
                let result = self.follow(&client, &mut view, &mut terminal);
                ratatui::restore();
                result
            }
        }
    }

    fn plain(&self, client: &Client, view: &mut View, count: u32) -> Result<(), Failure> {
        let backend = ratatui::backend::TestBackend::new(PLAIN.0, PLAIN.1);
        let mut terminal = ratatui::Terminal::new(backend).unwrap_or_else(|never| match never {});
        for _ in 0..count {
            std::thread::sleep(self.interval);
            look(client, view)?;
            let frame = terminal.draw(|frame| draw(frame, view));
            let frame = frame.unwrap_or_else(|never| match never {});
            super::table::say(screen::text(frame.buffer))?;
        }
        Ok(())
    }

    fn follow(
        &self,
        client: &Client,
        view: &mut View,
        terminal: &mut ratatui::DefaultTerminal,
    ) -> Result<(), Failure> {
        let mut next = Instant::now() + self.interval;
        loop {
            terminal.draw(|frame| draw(frame, view)).map_err(|e| no_terminal(&e))?;
            let left = next.saturating_duration_since(Instant::now());
            if event::poll(left).map_err(|e| no_terminal(&e))? {
                let Event::Key(key) = event::read().map_err(|e| no_terminal(&e))? else { continue };
                if key.kind != KeyEventKind::Press {
                    continue;
                }
                let control = key.modifiers.contains(KeyModifiers::CONTROL);
                let key = match key.code {
                    KeyCode::Char('c') if control => return Ok(()),
                    KeyCode::Up => Key::Up,
                    KeyCode::Down => Key::Down,
                    KeyCode::Esc => Key::Cancel,
                    KeyCode::Char(c) => Key::Letter(c.to_ascii_lowercase()),
                    _ => continue,
                };
                match view.key(key) {
                    Action::None => {}
                    Action::Quit => return Ok(()),
                    Action::Order { tenant, order } => {
                        // Names that a policy allows need no escaping in a path.
                        let path = format!("/v1/tenants/{tenant}/{order}");
                        let done = client.order(Method::POST, &path);
                        view.note(match done {
                            Ok(()) => format!("{tenant}: {order}: done"),
                            Err(error) => format!("{tenant}: {order}: {error}"),
                        });
                        look(client, view)?;
                    }
                }
            } else {
                look(client, view)?;
                next = Instant::now() + self.interval;
            }
        }
    }
}

fn look(client: &Client, view: &mut View) -> Result<(), Failure> {
    let tenants: Vec<Tenant> = client.get("/v1/tenants").map_err(failure)?;
    view.update(tenants, Instant::now());
    Ok(())
}

fn no_terminal(error: &std::io::Error) -> Failure {
    Failure::machine(format!("no terminal: {error}"), "run it in a terminal, or with --plain")
}
