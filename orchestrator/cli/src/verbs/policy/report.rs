//! The decision table and the hosts that a policy takes, for people.

use portcullis_policy::{Answer, Scope, Table, Taken};

use crate::failure::Failure;
use crate::screen::{Cell, Screen, plain};
use crate::words;

/// Of a condition: the whole of it is above, with its rule.
const LONGEST_CONDITION: usize = 60;

pub fn table(table: &Table, screen: &mut Screen) -> Result<(), Failure> {
    screen.line("")?;
    screen.line("decisions: the first line that applies counts; limits may make a question of each isolation")?;
    let titles: Vec<String> = table.axes.iter().map(|axis| axis.trim_start_matches("host.").to_uppercase()).collect();
    let head: Vec<&str> = titles.iter().map(String::as_str).chain(["VERDICT", "RULE", "ONLY IF"]).collect();
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for row in &table.rows {
        for (at, answer) in row.answers.iter().enumerate() {
            // Further answers of the same row.
            let cell = |text: &String| plain(if at == 0 { text.clone() } else { String::new() });
            rows.push(row.cells.iter().map(cell).chain(answer_cells(answer)).collect());
        }
    }
    screen.table(&head, rows)
}

fn answer_cells(answer: &Answer) -> [Cell; 3] {
    let audit = if answer.audit { ", in audit" } else { "" };
    let verdict = match &answer.held_by {
        Some(held) => format!("{} ({held}){audit}", answer.verdict),
        None => format!("{}{audit}", answer.verdict),
    };
    let only_if: Vec<String> = answer.only_if.iter().map(|condition| words::short(condition, LONGEST_CONDITION)).collect();
    [plain(verdict), plain(answer.rule.clone()), plain(only_if.join(" and "))]
}

pub fn fleet(taken: &[Taken], screen: &mut Screen) -> Result<(), Failure> {
    screen.line("")?;
    if taken.is_empty() {
        return screen.line("The policy has no groups, protected hosts, limits or rules about hosts.");
    }
    let row = |taken: &Taken| {
        let more = taken.hosts.saturating_sub(taken.first.len());
        let first = taken.first.join(", ");
        let first = if more > 0 { format!("{first} and {more} more") } else { first };
        vec![plain(taken.what), plain(taken.name.clone()), plain(taken.hosts.to_string()), plain(first)]
    };
    screen.table(&["WHAT", "NAME", "HOSTS", "WHICH"], taken.iter().map(row).collect())?;
    for taken in taken {
        if taken.scopes.iter().any(|scope| scope.name.is_some()) {
            let scopes: Vec<String> = taken.scopes.iter().map(scope).collect();
            screen.line(&format!("limit {}: {}", taken.name, scopes.join("; ")))?;
        }
        if taken.hosts == 0 {
            screen.warn(&format!("{} {} takes no known host", taken.what, taken.name));
        }
        if let Some(reason) = &taken.reason {
            let hosts = words::count(taken.unclear as u64, "host", "hosts");
            screen.warn(&format!("{} {}: for {hosts} the condition fails: {reason}", taken.what, taken.name));
        }
    }
    Ok(())
}

fn scope(scope: &Scope) -> String {
    let name = match scope.name.as_deref() {
        Some("") | None => "without",
        Some(name) => name,
    };
    let most = scope.most.map(|most| format!(", at most {most} isolated")).unwrap_or_default();
    format!("{name} {}{most}", words::count(scope.hosts, "host", "hosts"))
}
