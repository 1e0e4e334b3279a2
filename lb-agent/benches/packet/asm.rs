//! The few BPF instructions that the laboratory itself needs.

/// XDP: `return XDP_PASS`.
pub const PASS: [u64; 2] = [set(R0, 2), EXIT];

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R6: u8 = 6;
const R7: u8 = 7;
const R8: u8 = 8;

const EXIT: u64 = op(0x95, 0, 0, 0, 0);
const RANDOM: i32 = 7;

/// Opcode, destination, source, offset, immediate: `struct bpf_insn` as one little-endian word.
const fn op(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    let registers = (src << 4 | dst) as u64;
    code as u64
        | registers << 8
        | (off.cast_unsigned() as u64) << 16
        | (imm.cast_unsigned() as u64) << 32
}

const fn set(dst: u8, imm: i32) -> u64 {
    op(0xb7, dst, 0, 0, imm)
}

const fn copy(dst: u8, src: u8) -> u64 {
    op(0xbf, dst, src, 0, 0)
}

/// An IPv4 frame with UDP whose source port is one of `flows` at random, and whose checksum is right: the frame is
/// written anew each time, for live frames come back as the stack left them.
pub fn writer(frame: &[u8], flows: u16) -> Vec<u64> {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (port, checksum) = (word(34), word(40));
    let length = i32::try_from(frame.len()).unwrap_or(i32::MAX);
    let mut program = vec![
        copy(R6, R1),
        op(0x85, 0, 0, 0, RANDOM),
        copy(R7, R0),
        op(0x57, R7, 0, 0, i32::from(flows - 1)),
        op(0x61, R2, R6, 0, 0),
        op(0x61, R3, R6, 4, 0),
        copy(R4, R2),
        op(0x07, R4, 0, 0, length),
    ];
    let stores = frame
        .as_chunks::<4>()
        .0
        .iter()
        .enumerate()
        .map(|(i, bytes)| {
            let word = i32::from_le_bytes(*bytes);
            let at = i16::try_from(i * 4).unwrap_or(i16::MAX);
            op(0x62, R2, 0, at, word)
        });
    let mut body: Vec<u64> = stores.collect();
    body.extend([
        set(R8, i32::from(port)),
        op(0x0f, R8, R7, 0, 0),
        op(0xdc, R8, 0, 0, 16),
        op(0x6b, R2, R8, 34, 0),
        // One more in a port is one less in its checksum, as long as it does not run below 0.
        set(R8, i32::from(checksum)),
        op(0x1f, R8, R7, 0, 0),
        op(0xdc, R8, 0, 0, 16),
        op(0x6b, R2, R8, 40, 0),
    ]);
    let over = i16::try_from(body.len()).unwrap_or(i16::MAX);
    program.push(op(0x2d, R4, R3, over, 0));
    program.extend(body);
    program.extend(PASS);
    program
}

/// TCX: drops UDP over IPv4 to `port`, and lets all else go on.
pub fn sink(port: u16) -> Vec<u64> {
    vec![
        copy(R6, R1),
        op(0x28, 0, 0, 0, 12),
        op(0x55, R0, 0, 6, 0x0800),
        op(0x30, 0, 0, 0, 23),
        op(0x55, R0, 0, 4, 17),
        op(0x28, 0, 0, 0, 36),
        op(0x55, R0, 0, 2, i32::from(port)),
        set(R0, 2),
        EXIT,
        set(R0, -1),
        EXIT,
    ]
}

/// TCX: lets everything go on.
pub const NEXT: [u64; 2] = [set(R0, -1), EXIT];
