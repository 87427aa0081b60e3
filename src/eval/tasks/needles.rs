//! Numbers hidden in a long text.

use rand::{Rng, RngExt};

use super::{
    Draft, SampleMaker,
    haystack::Haystack,
    word_lists::{keys, numbers},
};

/// The number of values, or of requested keys, in tasks with several.
const SEVERAL: usize = 4;

/// A number without a key.
pub(super) fn passkey<'a>(maker: &SampleMaker, generator: &mut impl Rng) -> Draft<'a> {
    let key = numbers(1, 5, generator);
    let needles =
        vec![(maker.depth.unwrap_or_else(|| generator.random()), format!("The pass key is {}. Remember it.", key[0]))];
    let before = "There is an important piece of information hidden inside a lot of irrelevant text. Find it and memorize \
                  it. I will quiz you about it afterwards.";
    let question = "\nWhat is the pass key? The pass key is".to_owned();
    hidden(Haystack::Noise, 0, before, needles, question, key)
}

/// Keys with one number each. The question asks for one of them.
pub(super) fn needle<'a>(maker: &SampleMaker<'a>, count: usize, in_text: bool, generator: &mut impl Rng) -> Draft<'a> {
    let (keys, values) = (keys(count, generator), numbers(count, 7, generator));
    let haystack = if in_text { Haystack::of_text(maker.text) } else { Haystack::Noise };
    let first = if in_text { generator.random_range(0..haystack.sentences().max(1)) } else { 0 };
    let asked = generator.random_range(0..count);
    let mut needles = needles(&keys, &values, generator);
    needles[asked].0 = maker.depth.unwrap_or(needles[asked].0);
    let before = if count == 1 { ONE } else { MORE };
    let of = format!("the special magic number for {} mentioned in the provided text", keys[asked]);
    let question = format!("\nWhat is {of}? {} is", capital(&of));
    hidden(haystack, first, before, needles, question, vec![values[asked].clone()])
}

/// Several numbers under one key.
pub(super) fn multi_value<'a>(maker: &SampleMaker<'a>, generator: &mut impl Rng) -> Draft<'a> {
    let (key, values) = (keys(1, generator), numbers(SEVERAL, 7, generator));
    let needles = needles(&vec![key[0].clone(); SEVERAL], &values, generator);
    several(maker, needles, &key[0], values, generator)
}

/// Several keys with one number each.
pub(super) fn multi_query<'a>(maker: &SampleMaker<'a>, generator: &mut impl Rng) -> Draft<'a> {
    let (keys, values) = (keys(SEVERAL, generator), numbers(SEVERAL, 7, generator));
    let needles = needles(&keys, &values, generator);
    let listed = format!("{}, and {}", keys[..SEVERAL - 1].join(", "), keys[SEVERAL - 1]);
    several(maker, needles, &listed, values, generator)
}

const ONE: &str = "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you \
                   about the number afterwards.";
const MORE: &str = "Some special magic numbers are hidden within the following text. Make sure to memorize it. I will \
                    quiz you about the numbers afterwards.";

fn several<'a>(
    maker: &SampleMaker<'a>,
    needles: Vec<(f64, String)>,
    keys: &str,
    values: Vec<String>,
    generator: &mut impl Rng,
) -> Draft<'a> {
    let haystack = Haystack::of_text(maker.text);
    let first = generator.random_range(0..haystack.sentences().max(1));
    let of = format!("the special magic numbers for {keys} mentioned in the provided text");
    let question = format!("\nWhat are all {of}? {} are", capital(&of));
    hidden(haystack, first, MORE, needles, question, values)
}

/// One sentence for each key and number, at random places.
fn needles(keys: &[String], values: &[String], generator: &mut impl Rng) -> Vec<(f64, String)> {
    let needle =
        |(key, value)| (generator.random(), format!("One of the special magic numbers for {key} is: {value}."));
    keys.iter().zip(values).map(needle).collect()
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn hidden<'a>(
    haystack: Haystack<'a>,
    first: usize,
    before: &'static str,
    needles: Vec<(f64, String)>,
    question: String,
    answers: Vec<String>,
) -> Draft<'a> {
    let most = haystack.sentences();
    let context = move |count: usize| format!("{before}\n {}", haystack.with_needles(first, count, &needles));
    Draft { context: Box::new(context), most, question, answers }
}
