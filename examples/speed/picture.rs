use sparse_attention_hub::{
    io::OutputFile,
    plot::{LinePlot, PlotError, Scale},
};

use crate::measure::Row;

/// Draws the milliseconds of a step over the number of keys as SVG, with a line for each method of each backend.
pub fn draw(rows: &[Row], file: &OutputFile) -> Result<(), PlotError> {
    let mut names = Vec::<(&str, &str)>::new();
    for row in rows {
        let name = (row.backend, row.method.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let several = names.iter().any(|(backend, _)| *backend != names[0].0);
    let heads = rows.first().map_or(String::new(), |row| format!("{} / {}", row.heads, row.kv_heads));
    let mut plot = LinePlot::new(format!("A decode step, {heads} heads, whole steps with selection"))
        .x("keys", Scale::Log)
        .y("milliseconds", Scale::Log);
    for (backend, method) in names {
        let points = rows.iter().filter(|row| (row.backend, row.method.as_str()) == (backend, method));
        let name = if several { format!("{backend}: {method}") } else { method.to_owned() };
        plot = plot.line(name, points.map(|row| (row.keys as f64, row.milliseconds)));
    }
    plot.write(file)
}
