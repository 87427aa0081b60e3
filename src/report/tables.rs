use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::{
    metrics::{Metric, MetricLog, built_in},
    plot::Summary,
};

/// The metrics that can order the heads, and whether a larger value is worse. The first that is in the log is used.
const WORST_BY: [(&str, bool); 4] = [
    (built_in::HEAD_OUTPUT_ERROR, true),
    (built_in::HEAD_LOG_SUM_EXP_ERROR, true),
    (built_in::HEAD_MASS_KEPT, false),
    (built_in::HEAD_DENSITY, true),
];

/// Facts about the log: its records and times.
pub(super) fn run(log: &MetricLog) -> Markup {
    let times = || log.records.iter().map(|record| record.timestamp);
    html! {
        dl {
            dt { "log" }
            dd { (log.origin()) }
            dt { "records" }
            dd { (log.records.len()) }
            @if let (Some(first), Some(last)) = (times().min(), times().max()) {
                dt { "first" }
                dd { (first) }
                dt { "last" }
                dd { (last) }
            }
        }
    }
}

/// The means of each location.
pub(super) fn locations(summary: &Summary) -> Markup {
    let rows = summary.locations().iter().enumerate().map(|(at, location)| {
        let means = summary.metrics().iter().map(|metric| summary.mean(&metric.name, at)).collect::<Vec<_>>();
        (vec![shown(location)], means)
    });
    table(&["location"], summary.metrics(), rows.collect())
}

/// The means of each head, the worst first.
pub(super) fn heads(summary: &Summary) -> Markup {
    let mut rows = BTreeMap::<(usize, usize, usize), Vec<Option<f64>>>::new();
    let of_heads = |metric: &&Metric| {
        (0..summary.locations().len()).any(|at| !summary.heads(&metric.name, at).is_empty())
            && !metric.name.starts_with("query_")
    };
    let metrics = summary.metrics().iter().filter(of_heads).cloned().collect::<Vec<_>>();
    for (column, metric) in metrics.iter().enumerate() {
        for at in 0..summary.locations().len() {
            for head in summary.heads(&metric.name, at) {
                let row = rows.entry((at, head.layer, head.head)).or_insert_with(|| vec![None; metrics.len()]);
                row[column] = Some(head.mean);
            }
        }
    }
    let mut rows = rows.into_iter().collect::<Vec<_>>();
    let by = WORST_BY.iter().find_map(|(name, more)| Some((metrics.iter().position(|m| m.name == *name)?, *more)));
    if let Some((column, more_is_worse)) = by {
        let badness = |row: &[Option<f64>]| match (row[column], more_is_worse) {
            (Some(value), true) => value,
            (Some(value), false) => -value,
            (None, _) => f64::NEG_INFINITY,
        };
        rows.sort_by(|(_, a), (_, b)| badness(b).total_cmp(&badness(a)));
    }
    if rows.is_empty() {
        return html! { p { "The log has no records by head." } };
    }
    let rows = rows.into_iter().map(|((at, layer, head), means)| {
        (vec![shown(&summary.locations()[at]), layer.to_string(), head.to_string()], means)
    });
    table(&["location", "layer", "head"], &metrics, rows.collect())
}

/// The descriptions of the metrics.
pub(super) fn metrics(summary: &Summary) -> Markup {
    html! {
        dl {
            @for metric in summary.metrics() {
                dt { (metric.name) }
                dd {
                    (metric.about)
                    @if !metric.unit.is_empty() { " In " (metric.unit) "." }
                }
            }
        }
    }
}

/// A table that can be sorted by each column.
fn table(names: &[&str], metrics: &[Metric], rows: Vec<(Vec<String>, Vec<Option<f64>>)>) -> Markup {
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        @for name in names { th scope="col" { button type="button" { (name) } } }
                        @for metric in metrics {
                            th.number scope="col" title=(metric.about) {
                                button type="button" {
                                    (metric.name.replace('_', " "))
                                    @if !metric.unit.is_empty() { " (" (metric.unit) ")" }
                                }
                            }
                        }
                    }
                }
                tbody {
                    @for (texts, means) in &rows {
                        tr {
                            @for text in texts { td { (text) } }
                            @for mean in means {
                                @match mean {
                                    Some(mean) => td.number data-value=(mean) { (short(*mean)) },
                                    None => td.number {},
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn shown(location: &str) -> String {
    if location.is_empty() { "all" } else { location }.to_owned()
}

/// Four digits are enough to compare. The exact number is kept for sorting.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e6).contains(&size) => format!("{value:.3e}"),
        size if size < 10.0 => format!("{value:.4}"),
        size if size < 1000.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn numbers_are_short() {
        let known =
            [(0.0, "0"), (0.01234567, "0.0123"), (1.5e-5, "1.500e-5"), (123.456, "123.46"), (98_765.4, "98765")];
        for (value, text) in known {
            assert_eq!(short(value), text);
        }
        assert_eq!(short(f64::INFINITY), "inf");
    }
}
