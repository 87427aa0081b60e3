//! Variables that are assigned to each other.

use rand::{Rng, RngExt};

use super::{
    Draft,
    haystack::Haystack,
    word_lists::{letters, numbers},
};

/// The number of chains, and the number of variables of each chain.
const CHAINS: [usize; 2] = [2, 4];

/// Two chains of assignments. The assignments of a chain stand in the text in the order of the chain.
pub(super) fn draft<'a>(generator: &mut impl Rng) -> Draft<'a> {
    let [chains, variables] = CHAINS;
    let (names, values) = (letters(chains * variables, 5, 'A', generator), numbers(chains, 5, generator));
    let mut assignments = Vec::new();
    for (names, value) in names.chunks(variables).zip(&values) {
        let mut places = (0..variables).map(|_| generator.random::<f64>()).collect::<Vec<_>>();
        places.sort_by(f64::total_cmp);
        for (at, place) in places.into_iter().enumerate() {
            let assignment = match at {
                0 => format!("VAR {} = {value}.", names[0]),
                _ => format!("VAR {} = VAR {}.", names[at], names[at - 1]),
            };
            assignments.push((place, assignment));
        }
    }
    // The sort is stable: assignments in the same place keep the order of their chain.
    assignments.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let value = &values[0];
    let question = format!(
        "\nQuestion: Find all variables that are assigned the value {value} in the text above. Answer: According to the \
         chain(s) of variable assignment in the text above, {variables} variables are assigned the value {value}, they \
         are:"
    );
    let context = move |count: usize| {
        let before = "Memorize and track the chain(s) of variable assignment hidden in the following text.";
        format!("{before}\n {}", Haystack::Noise.with_needles(0, count, &assignments))
    };
    let answers = names[..variables].to_vec();
    Draft { context: Box::new(context), most: Haystack::Noise.sentences(), question, answers }
}
