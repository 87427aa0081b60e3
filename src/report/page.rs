use std::fmt::Write;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::tables;
use crate::plot::{Figure, HeatMap, PlotError, PlotGenerator, Theme};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("sort.js");

pub(super) fn page(title: &str, generator: &PlotGenerator, masks: &[HeatMap]) -> Result<String, PlotError> {
    let (log, summary) = (generator.log(), generator.summary());
    let masks = masks.iter().enumerate().map(|(at, map)| picture(&format!("mask-{at}"), &map.figure()?, &map.to_csv()));
    let masks = masks.collect::<Result<Vec<_>, PlotError>>()?;
    let plots = generator.all();
    let plots = plots.iter().map(|plot| picture(&plot.name, &plot.figure()?, &plot.to_csv()));
    let plots = plots.collect::<Result<Vec<_>, PlotError>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    section {
                        h2 { "Summary" }
                        (tables::run(log))
                        @if !log.cut_off.is_empty() {
                            p.warning { (cut_off(&log.cut_off)) }
                        }
                        (tables::locations(summary))
                    }
                    section {
                        h2 { "Heads, the worst first" }
                        (tables::heads(summary))
                    }
                    @if !masks.is_empty() {
                        section {
                            h2 { "Masks of the worst heads" }
                            div.plots { @for mask in &masks { (mask) } }
                        }
                    }
                    section {
                        h2 { "Plots" }
                        div.plots { @for plot in &plots { (plot) } }
                        @if plots.is_empty() {
                            p { "No plot can be made: the records have neither layers nor steps." }
                        }
                    }
                    section {
                        h2 { "Metrics" }
                        (tables::metrics(summary))
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Ok(page.into_string())
}

fn cut_off(lines: &[usize]) -> String {
    let named = lines.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    match lines {
        [_] => format!("Line {named} of the log is cut off and left out."),
        _ => format!("The lines {named} of the log are cut off and left out."),
    }
}

/// A picture with its numbers. It is drawn in both themes, and the browser shows one of them.
fn picture(name: &str, figure: &Figure, csv: &str) -> Result<Markup, PlotError> {
    let (light, dark) = (figure.to_svg(Theme::Light)?, figure.to_svg(Theme::Dark)?);
    Ok(html! {
        figure {
            div.light { (PreEscaped(light)) }
            div.dark { (PreEscaped(dark)) }
            figcaption {
                a download=(format!("{name}.csv")) href=(data_link(csv)) { "numbers of " (figure.title()) " (CSV)" }
            }
        }
    })
}

/// A link that contains its data.
fn data_link(text: &str) -> String {
    let mut link = "data:text/csv;charset=utf-8,".to_owned();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b',' => link.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => _ = write!(link, "%{byte:02X}"),
        }
    }
    link
}

#[cfg(test)]
mod tests {
    use super::data_link;

    #[test]
    fn links_hold_any_text() {
        assert_eq!(data_link("a,1.5\n\"ö\"#"), "data:text/csv;charset=utf-8,a,1.5%0A%22%C3%B6%22%23");
    }
}
