//! `twinlog audit`: who ordered what, and what came of it.

use super::operator::{OperatorArgs, operate};
use super::table::{span, table};
use crate::admin::answer::{AuditView, ListView};
use clap::Args;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    pub operator: OperatorArgs,
    /// The newest so many orders.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
}

pub fn audit(arguments: &AuditArgs) -> ExitCode {
    operate(&arguments.operator, async |operator| {
        let path = format!("/twinlog/v1/audit?limit={}", arguments.limit);
        let answer: ListView<AuditView> = operator.client.get(&path).await?;
        let now_ms = twinlog_io::wall_clock_ms();
        operator.show(&answer, |answer| written(&answer.data, now_ms));
        Ok(true)
    })
}

fn written(orders: &[AuditView], now_ms: i64) -> String {
    let row = |order: &AuditView| {
        let age = u64::try_from(now_ms.saturating_sub(order.time_ms)).unwrap_or(0);
        let dry = if order.validate_only { " (dry run)" } else { "" };
        [
            format!("{} ago", span(age)),
            order.who.clone(),
            order.peer.clone(),
            format!("{} {}", order.method, order.path),
            format!("{}{dry}", order.what),
            format!("{} {}", order.status, order.error_code).trim_end().to_owned(),
        ]
    };
    let rows: Vec<_> = orders.iter().map(row).collect();
    table(["Time", "Who", "From", "Request", "Topics", "Result"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_order_is_one_row() {
        let order = AuditView {
            id: 1,
            time_ms: 1_000,
            who: "token ci".into(),
            peer: "10.0.0.7".into(),
            method: "POST".into(),
            path: "/p".into(),
            what: "orders".into(),
            validate_only: true,
            status: 403,
            error_code: "40301".into(),
        };
        let told = written(&[order], 6_000);
        assert_eq!(
            told.lines().last().unwrap(),
            "5.0 s ago | token ci | 10.0.0.7 | POST /p | orders (dry run) | 403 40301"
        );
    }
}
