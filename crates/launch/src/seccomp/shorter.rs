//! The same answers from fewer instructions. The library asks for each system call by itself; but nearly all that a profile allows
//! is allowed whatever its arguments are, and lies side by side: what matters is where the answer changes.
//!
//! ```text
//! the library's program ──run for each range of numbers──> table: from number on ─> answer, or the tests of arguments that are left
//!                                                          table ──> a tree of comparisons over shared answers
//! ```
//!
//! Of the numbers that a program compares with, nothing but whole ranges can be told apart: one number of each stands for all.
//! A program with an instruction that is not understood stays as it is, and so does one that would not become shorter.

use std::collections::{BTreeSet, HashSet};

use super::code::{
    AND, ARCH, Instruction, JUMP_ALWAYS, JUMP_EQUAL, JUMP_IF_ANY_BIT, LOAD, NR, RETURN,
};
use layout::Layout;

mod layout;

/// What a program comes to, once architecture and number are known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Answer(u32),
    /// Looks at arguments; begins by loading one, ends in answers on all ways.
    Tests(Vec<Instruction>),
}

/// From the number on, up to the next.
type Table = Vec<(u32, Outcome)>;

/// A program with the same answers, if there is a shorter one.
pub(super) fn shorter(code: &[Instruction]) -> Option<Vec<Instruction>> {
    let compared = compared(code)?;
    let numbers = ranges(&compared.numbers);
    let table = |arch: u32| -> Option<Table> {
        let mut table = Table::new();
        for number in &numbers {
            let outcome = outcome(code, arch, *number)?;
            if table.last().is_none_or(|(_, last)| *last != outcome) {
                table.push((*number, outcome));
            }
        }
        Some(table)
    };
    // Architectures have names and no order: what is between those that are named has one table.
    let unnamed = |from: &u32| !compared.archs.contains(from);
    let others = ranges(&compared.archs).into_iter().filter(unnamed).map(table);
    let others = others.collect::<Option<Vec<Table>>>()?;
    let (rest, same) = others.split_first()?;
    if same.iter().any(|table| table != rest) {
        return None;
    }
    let mut layout = Layout::default();
    let mut next = layout.table(rest)?;
    for arch in &compared.archs {
        let own = layout.table(&table(*arch)?)?;
        next = layout.test(JUMP_EQUAL, *arch, (own, next))?;
    }
    let program = layout.begin(Instruction::new(LOAD, ARCH), next)?;
    (program.len() < code.len()).then_some(program)
}

/// The constants that a program compares with.
#[derive(Debug, Default)]
struct Compared {
    archs: BTreeSet<u32>,
    numbers: BTreeSet<u32>,
}

/// What the accumulator has in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holds {
    Nothing,
    Arch,
    Number,
    /// An argument, or what was made of one.
    Other,
}

/// `None` when the number or the architecture is not only compared.
fn compared(code: &[Instruction]) -> Option<Compared> {
    let mut all = Compared::default();
    let mut seen = HashSet::new();
    let mut open = vec![(0, Holds::Nothing)];
    while let Some((at, holds)) = open.pop() {
        if !seen.insert((at, holds)) {
            continue;
        }
        let instruction = *code.get(at)?;
        let next = at + 1;
        match instruction.code {
            RETURN => {}
            JUMP_ALWAYS => open.push((next + index(instruction.k)?, holds)),
            LOAD => open.push((next, loaded(instruction.k))),
            AND if holds == Holds::Other => open.push((next, holds)),
            _ if instruction.is_test() => {
                let ordered = instruction.code != JUMP_IF_ANY_BIT;
                match holds {
                    Holds::Arch if instruction.code == JUMP_EQUAL => {
                        all.archs.insert(instruction.k);
                    }
                    Holds::Number if ordered => {
                        all.numbers.insert(instruction.k);
                    }
                    Holds::Other => {}
                    Holds::Nothing | Holds::Arch | Holds::Number => return None,
                }
                open.push((next + usize::from(instruction.jump_true), holds));
                open.push((next + usize::from(instruction.jump_false), holds));
            }
            _ => return None,
        }
    }
    Some(all)
}

fn loaded(offset: u32) -> Holds {
    match offset {
        NR => Holds::Number,
        ARCH => Holds::Arch,
        _ => Holds::Other,
    }
}

/// The first of each range that comparisons with these constants can tell apart.
fn ranges(constants: &BTreeSet<u32>) -> BTreeSet<u32> {
    let beyond = constants.iter().filter_map(|k| k.checked_add(1));
    constants.iter().copied().chain(beyond).chain([0]).collect()
}

/// Runs a program up to its answer, or to where it looks at an argument.
fn outcome(code: &[Instruction], arch: u32, number: u32) -> Option<Outcome> {
    let (mut at, mut a) = (0, 0);
    loop {
        let instruction = *code.get(at)?;
        at += 1;
        match instruction.code {
            RETURN => return Some(Outcome::Answer(instruction.k)),
            JUMP_ALWAYS => at += index(instruction.k)?,
            LOAD if instruction.k == NR => a = number,
            LOAD if instruction.k == ARCH => a = arch,
            LOAD => return tests(code, at - 1).map(Outcome::Tests),
            _ if instruction.holds(a)? => at += usize::from(instruction.jump_true),
            _ => at += usize::from(instruction.jump_false),
        }
    }
}

/// All that can be reached from there, in its order and without the jumps between.
fn tests(code: &[Instruction], from: usize) -> Option<Vec<Instruction>> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        if reached.insert(at) {
            open.extend(after(code, at)?.into_iter().flatten());
        }
    }
    let place = |at: usize| reached.iter().position(|reached| *reached == at);
    let mut tests = Vec::new();
    for (here, at) in reached.iter().enumerate() {
        let mut instruction = *code.get(*at)?;
        let far = |to: Option<usize>| place(to?)?.checked_sub(here + 1);
        match after(code, *at)? {
            [None, _] => {}
            // What only goes on must go on to what is next.
            [to, None] => (far(to)? == 0).then_some(())?,
            [yes, no] => {
                instruction.jump_true = u8::try_from(far(yes)?).ok()?;
                instruction.jump_false = u8::try_from(far(no)?).ok()?;
            }
        }
        tests.push(instruction);
    }
    Some(tests)
}

/// Where an instruction among tests of arguments leads.
fn after(code: &[Instruction], at: usize) -> Option<[Option<usize>; 2]> {
    let instruction = *code.get(at)?;
    let next = at + 1;
    match instruction.code {
        RETURN => Some([None, None]),
        // Not the number or the architecture once more: they are not known to who runs this part.
        LOAD if loaded(instruction.k) == Holds::Other => Some([Some(land(code, next)?), None]),
        AND => Some([Some(land(code, next)?), None]),
        _ if instruction.is_test() => {
            let yes = land(code, next + usize::from(instruction.jump_true))?;
            let no = land(code, next + usize::from(instruction.jump_false))?;
            Some([Some(yes), Some(no)])
        }
        _ => None,
    }
}

/// Where one is after jumps that are always made.
fn land(code: &[Instruction], mut at: usize) -> Option<usize> {
    loop {
        let instruction = code.get(at)?;
        if instruction.code != JUMP_ALWAYS {
            return Some(at);
        }
        at += 1 + index(instruction.k)?;
    }
}

fn index(k: u32) -> Option<usize> {
    usize::try_from(k).ok()
}

#[cfg(test)]
mod tests;
