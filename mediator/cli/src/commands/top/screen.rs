//! How `top` looks.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Row as TableRow, Table, TableState};

use super::view::{Row, View};
use crate::commands::table::{bytes, count, nanoseconds};

/// Width of the bar of a GPU share, in characters.
const BAR: usize = 10;

const COLUMNS: [(&str, u16); 11] = [
    ("tenant", 14),
    ("state", 15),
    ("GPU", 16),
    ("memory", 9),
    ("of", 9),
    ("commands/s", 10),
    ("denied", 8),
    ("failed", 6),
    ("queue", 5),
    ("p50", 8),
    ("p99", 8),
];

pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    let total: f64 = view.rows.iter().map(|row| row.gpu_percent).sum();
    let rate: f64 = view.rows.iter().map(|row| row.commands_per_second).sum();
    let denied: f64 = view.rows.iter().map(|row| row.denied_per_second).sum();
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let title = Line::from(vec![
        Span::styled("turnstile", bold),
        Span::raw(format!(
            "  {}   GPU {total:.0} %   {} commands/s   {} denied/s   {} tenants",
            view.device,
            count(rate as u64),
            count(denied as u64),
            view.rows.len()
        )),
    ]);
    frame.render_widget(title, head);
    let header = COLUMNS.iter().enumerate().map(|(at, (name, _))| cell(at, *name));
    let table = Table::new(view.rows.iter().map(row), COLUMNS.map(|(_, w)| Constraint::Length(w)))
        .header(TableRow::new(header).style(Style::new().add_modifier(Modifier::UNDERLINED)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .column_spacing(1);
    let mut state = TableState::new().with_selected(view.at());
    frame.render_stateful_widget(table, body, &mut state);
    let (text, style) = match &view.asking {
        Some((tenant, order)) => {
            (format!("{order} {tenant}? y/n"), Style::new().fg(Color::Black).bg(Color::Yellow))
        }
        None if !view.message.is_empty() => (view.message.clone(), bold),
        None => (
            format!(
                "arrows choose  s order: {}  p pause/resume  r revoke  k kill  q end",
                view.order.word()
            ),
            Style::new().add_modifier(Modifier::DIM),
        ),
    };
    frame.render_widget(Line::styled(text, style), foot);
}

/// Names stand to the left, numbers to the right.
fn cell<'a>(column: usize, text: impl Into<Text<'a>>) -> Cell<'a> {
    let side = if column < 3 { Alignment::Left } else { Alignment::Right };
    Cell::from(text.into().alignment(side))
}

fn row(row: &Row) -> TableRow<'static> {
    let filled = ((row.gpu_percent / 100.0 * BAR as f64).round() as usize).min(BAR);
    let bar =
        format!("{}{} {:3.0} %", "█".repeat(filled), "·".repeat(BAR - filled), row.gpu_percent);
    let time = |ns: Option<u64>| ns.map_or("-".into(), nanoseconds);
    let texts = [
        row.name.clone(),
        row.state.clone(),
        bar,
        bytes(row.memory),
        bytes(row.memory_limit),
        count(row.commands_per_second as u64),
        count(row.denied),
        count(row.failed),
        format!("{}", row.queued.max(row.in_flight.into())),
        time(row.p50_ns),
        time(row.p99_ns),
    ];
    let style = match row.state.as_str() {
        state if state.starts_with("revoked") => Style::new().fg(Color::Red),
        state if state.contains("paused") => Style::new().fg(Color::Yellow),
        "absent" => Style::new().add_modifier(Modifier::DIM),
        _ => Style::new(),
    };
    TableRow::new(texts.into_iter().enumerate().map(|(at, text)| cell(at, text))).style(style)
}

/// A screen as lines of text.
pub(super) fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let lines = buffer.content.chunks(width).map(|line| {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned()
    });
    let lines: Vec<String> = lines.collect();
    lines.join("\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::view::{Action, Key};
    use super::*;
    use crate::control::{Held, Latency, Tenant};

    fn tenant(name: &str, commands: u64, gpu_ns: u64) -> Tenant {
        let resources = [("buffer_bytes".to_owned(), Held { used: 1 << 20, limit: 4 << 20 })];
        Tenant {
            name: name.into(),
            attach: "process".into(),
            state: "enabled".into(),
            paused: name == "copier",
            revoked: false,
            weight: 1,
            queued: 3,
            in_flight: 2,
            sessions: 1,
            handles: 4,
            commands,
            denied: 7,
            failed: 0,
            bytes: 0,
            gpu_ns,
            sessions_opened: 1,
            resets: 0,
            broken_rings: 0,
            registers_refused: 0,
            audit_dropped: 0,
            resources: resources.into_iter().collect(),
            operations: Default::default(),
            outcomes: Default::default(),
            latency: Some(Latency { p50_ns: 1500, p99_ns: 20_000, max_ns: 30_000 }),
        }
    }

    fn view() -> View {
        let mut view = View::new("emulated".into());
        let start = Instant::now();
        view.update(vec![tenant("copier", 0, 0), tenant("trainer", 0, 0)], start);
        let later = start + Duration::from_secs(2);
        let next = vec![tenant("copier", 10, 0), tenant("trainer", 5000, 1_000_000_000)];
        view.update(next, later);
        view
    }

    fn shown(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(118, 8)).unwrap();
        text(terminal.draw(|frame| draw(frame, view)).unwrap().buffer)
    }

    #[test]
    fn rates_shares_and_states_are_shown() {
        let screen = shown(&view());
        let line = |name: &str| screen.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
        assert!(line("turnstile").contains("GPU 50 %   2,505 commands/s"), "{screen}");
        let trainer = line("trainer");
        for part in ["█████····· ", "50 %", "1.00 MiB", "4.00 MiB", "2,500", "1.50 us", "20.0 us"]
        {
            assert!(trainer.contains(part), "no {part} in {trainer}");
        }
        assert!(line("copier").contains("enabled, paused"), "{screen}");
    }

    #[test]
    fn an_order_is_carried_out_only_after_a_yes() {
        let mut view = view();
        assert_eq!(view.key(Key::Letter('r')), Action::None);
        assert!(shown(&view).contains("choose a tenant"));
        view.key(Key::Down);
        view.key(Key::Down);
        view.key(Key::Letter('r'));
        assert!(shown(&view).contains("revoke trainer? y/n"));
        assert_eq!(view.key(Key::Letter('x')), Action::None);
        assert_eq!(view.key(Key::Letter('y')), Action::None, "the question is gone");
        view.key(Key::Letter('r'));
        let order = Action::Order { tenant: "trainer".into(), order: "revoke" };
        assert_eq!(view.key(Key::Letter('y')), order);
        view.key(Key::Up);
        view.key(Key::Letter('p'));
        let order = Action::Order { tenant: "copier".into(), order: "resume" };
        assert_eq!(view.key(Key::Letter('y')), order);
    }

    #[test]
    fn the_choice_stays_with_the_tenant_when_rows_move() {
        let mut view = view();
        view.key(Key::Down);
        assert_eq!(view.at(), Some(0));
        view.key(Key::Letter('s'));
        assert_eq!((view.order.word(), view.at()), ("GPU", Some(1)));
        assert_eq!(view.key(Key::Letter('q')), Action::Quit);
    }
}
