use std::io;

use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use super::ModelError;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// The role of the speaker, by the names of the model's template: usually `system`, `user` and `assistant`.
    pub role: String,
    /// The text of the message.
    pub content: String,
}

impl ChatMessage {
    /// Creates a message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A [Jinja](https://jinja.palletsprojects.com) template that turns a conversation into the text format that the model
/// was trained on. Templates can call the methods of Python's strings, lists and dictionaries.
///
/// `strftime_now` is not defined, so that the same conversation gives the same text every day. Templates then use a
/// fixed date.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    begin: String,
    end: String,
}

/// The largest number of instructions that a template may run. It stops an endless loop.
const FUEL: u64 = 10_000_000;

impl ChatTemplate {
    /// Compiles a template. `begin` and `end` are the tokens that begin and end a sequence.
    ///
    /// # Errors
    /// If the text is not a valid template.
    pub fn new(source: String, begin: String, end: String) -> Result<Self, ModelError> {
        let template = Self { source, begin, end };
        template.environment()?;
        Ok(template)
    }

    /// Renders a conversation. With `answer`, the text ends where the assistant's answer begins.
    ///
    /// # Errors
    /// If the template refuses the conversation or fails.
    pub fn render(&self, messages: &[ChatMessage], answer: bool) -> Result<String, ModelError> {
        let context = context! {
            messages => messages,
            add_generation_prompt => answer,
            bos_token => self.begin,
            eos_token => self.end,
        };
        let environment = self.environment()?;
        let rendered = environment.get_template(NAME).and_then(|template| template.render(context));
        rendered.map_err(|error| unusable(&error))
    }

    fn environment(&self) -> Result<Environment<'_>, ModelError> {
        let mut environment = Environment::new();
        // The same settings as in transformers.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_filter("tojson", to_json);
        environment.add_template(NAME, &self.source).map_err(|error| unusable(&error))?;
        Ok(environment)
    }
}

/// The name of the only template.
const NAME: &str = "chat";

fn unusable(error: &minijinja::Error) -> ModelError {
    ModelError::ChatTemplate { reason: format!("{error:#}") }
}

/// JSON in Python's format: with spaces after commas and colons, and without HTML escapes.
fn to_json(value: Value) -> Result<Value, minijinja::Error> {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, PythonFormatter);
    let invalid = |reason: String| minijinja::Error::new(ErrorKind::InvalidOperation, reason);
    value.serialize(&mut serializer).map_err(|error| invalid(error.to_string()))?;
    let text = String::from_utf8(text).map_err(|error| invalid(error.to_string()))?;
    Ok(Value::from_safe_string(text))
}

struct PythonFormatter;

impl serde_json::ser::Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[ChatMessage]) -> Result<String, String> {
        let template = ChatTemplate::new(source.to_owned(), "<s>".to_owned(), "</s>".to_owned());
        template.and_then(|template| template.render(messages, true)).map_err(|error| error.to_string())
    }

    #[test]
    fn templates_as_models_have_them() {
        let messages = [
            ChatMessage::new("system", " Be brief. "),
            ChatMessage::new("user", "a<b, \"c\"?"),
            ChatMessage::new("assistant", "Yes."),
        ];
        // Python's methods, namespaces, blocks that leave no empty line, and loops with an early exit.
        let source = "{{ bos_token }}{% set state = namespace(count=0) %}\n\
            {% for message in messages %}\n\
            {%- if message['role'].startswith('sys') %}\n\
            [{{ message.content.strip() | upper }}]{% continue %}\n\
            {% endif %}\n\
            {% set state.count = state.count + 1 %}\n\
            {{ message.role.title() }}: {{ message.content }}{{ eos_token }}\n\
            {% if loop.last %}{% break %}{% endif %}\n\
            {% endfor %}\n\
            {{ state.count }} {{ messages[1] | tojson }}\n\
            {% if add_generation_prompt %}A:{% endif %}";
        let expected = "<s>[BE BRIEF.]User: a<b, \"c\"?</s>\nAssistant: Yes.</s>\n\
            2 {\"role\": \"user\", \"content\": \"a<b, \\\"c\\\"?\"}\nA:";
        assert_eq!(render(source, &messages).as_deref(), Ok(expected));
    }

    #[test]
    fn what_cannot_be_carried_out_is_an_error() {
        for (source, part) in [
            ("{% for %}", "syntax error"),
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
            ("{% for x in range(10000) %}{% for y in range(10000) %}{% endfor %}{% endfor %}", "fuel"),
        ] {
            let error = render(source, &[ChatMessage::new("user", "Hello")]).unwrap_err();
            assert!(error.contains(part), "{source}: {error}");
        }
    }
}
