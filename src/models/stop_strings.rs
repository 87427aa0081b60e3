/// Searches a text that arrives in parts for stop strings. The end of the text is held back while it may be the
/// beginning of a stop string.
#[derive(Debug, Clone)]
pub(super) struct StopStrings {
    stop: Vec<String>,
    /// The text that is not discarded yet. The first `let_through` bytes have been let through.
    text: String,
    let_through: usize,
    found: bool,
}

impl StopStrings {
    /// Searches for these stop strings. Empty ones are ignored.
    pub fn new(stop: &[String]) -> Self {
        let stop = stop.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stop, text: String::new(), let_through: 0, found: false }
    }

    /// Whether a stop string was found.
    pub fn found(&self) -> bool {
        self.found
    }

    /// Appends a part and returns the text that can be let through.
    pub fn push(&mut self, part: &str) -> &str {
        self.text.drain(..self.let_through);
        self.let_through = 0;
        if self.found {
            return "";
        }
        self.text.push_str(part);
        self.let_through = match self.stop.iter().filter_map(|stop| self.text.find(stop)).min() {
            Some(at) => {
                self.found = true;
                at
            }
            None => self.text.len() - self.stop.iter().map(|stop| self.begun(stop)).max().unwrap_or(0),
        };
        &self.text[..self.let_through]
    }

    /// The text that was held back, when no more parts follow.
    pub fn finish(&mut self) -> &str {
        self.text.drain(..self.let_through);
        self.let_through = if self.found { 0 } else { self.text.len() };
        &self.text[..self.let_through]
    }

    /// The number of bytes at the end of the text that are the beginning of this stop string.
    fn begun(&self, stop: &str) -> usize {
        let lengths = stop.char_indices().map(|(at, _)| at).rev();
        lengths.into_iter().find(|&length| self.text.ends_with(&stop[..length])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(stop: &[&str], parts: &[&str]) -> (Vec<String>, bool) {
        let mut strings = StopStrings::new(&stop.iter().map(|stop| (*stop).to_owned()).collect::<Vec<_>>());
        let mut out = parts.iter().map(|part| strings.push(part).to_owned()).collect::<Vec<_>>();
        out.push(strings.finish().to_owned());
        (out, strings.found())
    }

    #[test]
    fn texts_are_found_across_parts() {
        assert_eq!(through(&["\nQ:"], &["a", "b\n", "Q", ": c", "d"]), (as_texts(&["a", "b", "", "", "", ""]), true));
        // Text that only looked like the beginning of a stop string is let through later, in its place.
        assert_eq!(through(&["\nQ:"], &["b\n", "Qx", "\n"]), (as_texts(&["b", "\nQx", "", "\n"]), false));
        // The first of several stop strings, and characters of several bytes.
        assert_eq!(through(&["ü!", "é"], &["ü", "xéü!"]), (as_texts(&["", "üx", ""]), true));
        assert_eq!(through(&[""], &["abc"]), (as_texts(&["abc", ""]), false));
    }

    fn as_texts(parts: &[&str]) -> Vec<String> {
        parts.iter().map(|part| (*part).to_owned()).collect()
    }
}
