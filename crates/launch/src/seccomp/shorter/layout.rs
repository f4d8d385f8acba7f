//! Putting a program together from its end, so that every jump leads to what is there already.

use std::collections::HashMap;

use super::super::code::{Instruction, JUMP_ALWAYS, JUMP_GREATER_OR_EQUAL, LOAD, NR, RETURN};
use super::Outcome;

/// A program in reverse. A place in it is how many instructions there were before.
#[derive(Debug, Default)]
pub(super) struct Layout {
    reversed: Vec<Instruction>,
    /// Where outcomes were last put.
    known: HashMap<Outcome, usize>,
}

impl Layout {
    /// Puts the instruction before a place: the whole program.
    pub(super) fn begin(mut self, first: Instruction, next: usize) -> Option<Vec<Instruction>> {
        self.before(next)?;
        self.reversed.push(first);
        self.reversed.reverse();
        Some(self.reversed)
    }

    /// Puts what a table says; gives its place.
    pub(super) fn table(&mut self, table: &[(u32, Outcome)]) -> Option<usize> {
        let first = self.tree(table)?;
        if table.len() == 1 {
            return Some(first);
        }
        self.before(first)?;
        Some(self.push(Instruction::new(LOAD, NR)))
    }

    /// Puts a test; gives its place.
    pub(super) fn test(&mut self, code: u16, k: u32, to: (usize, usize)) -> Option<usize> {
        // The jumps that both may need come between the test and what it leads to.
        let no = self.near(to.1, 1)?;
        let yes = self.near(to.0, 0)?;
        let jumps = (self.distance(yes)?, self.distance(no)?);
        let jumps = (u8::try_from(jumps.0).ok()?, u8::try_from(jumps.1).ok()?);
        Some(self.push(Instruction::test(code, k, jumps)))
    }

    fn tree(&mut self, table: &[(u32, Outcome)]) -> Option<usize> {
        if let [(_, outcome)] = table {
            return self.outcome(outcome);
        }
        let (low, high) = table.split_at(table.len() / 2);
        let (from, _) = high.first()?;
        let (yes, no) = (self.tree(high)?, self.tree(low)?);
        self.test(JUMP_GREATER_OR_EQUAL, *from, (yes, no))
    }

    /// Where an outcome is. One that is far is put once more, when that is no more than a jump there.
    fn outcome(&mut self, outcome: &Outcome) -> Option<usize> {
        let code = match outcome {
            Outcome::Answer(answer) => vec![Instruction::new(RETURN, *answer)],
            Outcome::Tests(code) => code.clone(),
        };
        if let Some(place) = self.known.get(outcome).copied()
            && (code.len() > 1 || self.distance(place)? < NEAR)
        {
            return Some(place);
        }
        self.reversed.extend(code.into_iter().rev());
        let place = self.reversed.len().checked_sub(1)?;
        self.known.insert(outcome.clone(), place);
        Some(place)
    }

    /// The place, or that of a jump there when a test that comes after so many more instructions could not reach it.
    fn near(&mut self, place: usize, more: usize) -> Option<usize> {
        let distance = self.distance(place)?;
        if u8::try_from(distance + more).is_ok() {
            return Some(place);
        }
        Some(self.push(Instruction::new(JUMP_ALWAYS, u32::try_from(distance).ok()?)))
    }

    /// Makes a place that of what comes next.
    fn before(&mut self, place: usize) -> Option<()> {
        let distance = self.distance(place)?;
        if distance > 0 {
            self.push(Instruction::new(JUMP_ALWAYS, u32::try_from(distance).ok()?));
        }
        Some(())
    }

    /// From the instruction that is put next.
    fn distance(&self, place: usize) -> Option<usize> {
        self.reversed.len().checked_sub(place + 1)
    }

    fn push(&mut self, instruction: Instruction) -> usize {
        self.reversed.push(instruction);
        self.reversed.len().saturating_sub(1)
    }
}

/// Leaves room for the tests of the tree that lead to an answer together.
const NEAR: usize = 192;
