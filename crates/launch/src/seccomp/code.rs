//! Filter programs as the kernel takes them: the instructions of classic BPF that filters are made of.

pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP_ALWAYS: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
pub(super) const JUMP_IF_ANY_BIT: u16 = 0x45;
pub(super) const RETURN: u16 = 0x06;
/// Offsets in `struct seccomp_data`.
pub(super) const NR: u32 = 0;
pub(super) const ARCH: u32 = 4;

const SIZE: usize = 8;

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jump_true: u8,
    pub(super) jump_false: u8,
    pub(super) k: u32,
}

impl Instruction {
    pub(super) fn new(code: u16, k: u32) -> Self {
        Self { code, jump_true: 0, jump_false: 0, k }
    }

    pub(super) fn test(code: u16, k: u32, (jump_true, jump_false): (u8, u8)) -> Self {
        Self { code, jump_true, jump_false, k }
    }

    pub(super) fn bytes(self) -> [u8; SIZE] {
        let [code_0, code_1] = self.code.to_ne_bytes();
        let [k_0, k_1, k_2, k_3] = self.k.to_ne_bytes();
        [code_0, code_1, self.jump_true, self.jump_false, k_0, k_1, k_2, k_3]
    }

    fn of_bytes(bytes: [u8; SIZE]) -> Self {
        let [code_0, code_1, jump_true, jump_false, k_0, k_1, k_2, k_3] = bytes;
        Self {
            code: u16::from_ne_bytes([code_0, code_1]),
            jump_true,
            jump_false,
            k: u32::from_ne_bytes([k_0, k_1, k_2, k_3]),
        }
    }

    /// Whether a test jumps for that value; `None` for what is no test.
    pub(super) fn holds(self, value: u32) -> Option<bool> {
        match self.code {
            JUMP_EQUAL => Some(value == self.k),
            JUMP_GREATER => Some(value > self.k),
            JUMP_GREATER_OR_EQUAL => Some(value >= self.k),
            JUMP_IF_ANY_BIT => Some(value & self.k != 0),
            _ => None,
        }
    }

    /// Whether it is a test.
    pub(super) fn is_test(self) -> bool {
        self.holds(0).is_some()
    }
}

/// The instructions of a program.
pub(super) fn parse(program: &[u8]) -> Vec<Instruction> {
    let (whole, _) = program.as_chunks::<SIZE>();
    whole.iter().map(|bytes| Instruction::of_bytes(*bytes)).collect()
}

/// A program for the kernel.
pub(super) fn bytes(code: &[Instruction]) -> Vec<u8> {
    code.iter().flat_map(|instruction| instruction.bytes()).collect()
}
