use super::{ModelError, Tokenizer};

/// Turns tokens into text one by one. A character whose bytes are several tokens comes out with the last of them.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    /// From here on tokens are decoded: a few that have come out already, because what precedes a token can change its
    /// text.
    start: usize,
    /// Up to here the text has come out.
    written: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, tokens: Vec::new(), start: 0, written: 0 }
    }

    /// The text that is complete with the next token.
    ///
    /// # Errors
    /// If the tokens cannot be put together.
    pub fn push(&mut self, token: u32) -> Result<String, ModelError> {
        self.tokens.push(token);
        self.advance(false)
    }

    /// What is left, with `U+FFFD` for a character that was not completed.
    ///
    /// # Errors
    /// If the tokens cannot be put together.
    pub fn finish(&mut self) -> Result<String, ModelError> {
        self.advance(true)
    }

    fn advance(&mut self, incomplete: bool) -> Result<String, ModelError> {
        let before = self.tokenizer.decode(&self.tokens[self.start..self.written], true)?;
        let all = self.tokenizer.decode(&self.tokens[self.start..], true)?;
        if !incomplete && all.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.start = self.written;
        self.written = self.tokens.len();
        Ok(all.strip_prefix(&before).unwrap_or(&all).to_owned())
    }
}
