//! `lockword list`: the locks of an engine.

use super::at_desk;
use super::view::View;
use crate::lock_args::ListArgs;
use crate::output::{fit, json_line, print};
use crate::{CliError, ExitOutcome};

/// Columns of the table: 80 in all, with the two spaces between them.
const WIDTHS: [usize; 4] = [32, 10, 28, 4];

/// Lists the locks.
pub fn list(args: &ListArgs) -> Result<ExitOutcome, CliError> {
    at_desk(&args.engine, None, async |desk| {
        let mut text = String::new();
        if !args.json {
            text += &row(&["KEY", "STATE", "HOLDER", "WAIT"]);
        }
        for key in desk.keys(&args.prefix).await? {
            let view = View::of(desk, &key).await?;
            if args.json {
                text += &json_line(&view.json());
            } else {
                let waiting = view.waiting().to_string();
                text += &row(&[key.as_str(), view.state(), &view.holder(), &waiting]);
            }
        }
        print(&text)?;
        Ok(ExitOutcome::Done)
    })
}

fn row(cells: &[&str; 4]) -> String {
    let cells = cells.iter().zip(WIDTHS).map(|(cell, width)| fit(cell, width));
    format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
}
