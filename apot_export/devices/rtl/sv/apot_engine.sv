// A whole quantized convolution (or matrix product: all extents 1) from memories, one x a cycle.
//
// Load the inputs, give a pulse of `start`, and take a word of LANES results whenever
// `result_valid`: in the order [group, block of LANES outputs, output row, output column]. The record
// of a complete sum is worked through while the next sum grows.
module apot_engine #(
    parameter int LANES = 4,
    parameter int X_BITS = 4,
    parameter bit X_SIGNED = 0,
    parameter int CODE_BITS = 4,
    parameter bit CODE_SIGNED = 1,
    parameter int FIELDS = 2,
    parameter bit [8*FIELDS+7:0] FIELD_LOW = {8'd3, 8'd2, 8'd0},
    parameter int ENTRIES = 4,
    parameter bit [8*ENTRIES*FIELDS-1:0] TERMS = {8'h00, 8'h00, 8'h41, 8'h00, 8'h40, 8'h42, 8'h43, 8'h00},
    parameter int PRODUCT_BITS = 9,
    parameter int SUM_BITS = 16,
    parameter int GROUPS = 1, BLOCKS = 1, INPUTS = 1,
    parameter int HEIGHT = 1, WIDTH = 1,
    parameter int OUT_HEIGHT = 1, OUT_WIDTH = 1,
    parameter int KERNEL_Y = 1, KERNEL_X = 1,
    parameter int STRIDE_Y = 1, STRIDE_X = 1,
    parameter int PADDING_Y = 0, PADDING_X = 0,
    parameter int DILATION_Y = 1, DILATION_X = 1,
    parameter int MODE = 0,  // 0: results are the sums; else see apot_finish
    parameter int WORD_BITS = 16, WORDS = 1, SHIFT = 0, RESULT_BITS = 16,
    parameter bit [WORDS*RESULT_BITS-1:0] LEVELS = '0,
    parameter CODES_FILE = "codes.mem",  // for $readmemh: code words [group, block, tap]
    parameter RECORDS_FILE = "records.mem",  // words of records [group, block, word]
    localparam int NUMBERS = GROUPS * INPUTS * HEIGHT * WIDTH,
    localparam int ADDRESS_BITS = NUMBERS > 1 ? $clog2(NUMBERS) : 1
) (
    input logic clk,
    input logic load,
    input logic [ADDRESS_BITS-1:0] load_address,  // in C order [channel, row, column]
    input logic [X_BITS-1:0] load_x,
    input logic start,
    output logic busy,
    output logic accumulated,  // partial_sums have one product more
    output logic [LANES*SUM_BITS-1:0] partial_sums,
    output logic result_valid,
    output logic [LANES*SUM_BITS-1:0] sums,
    output logic [LANES*RESULT_BITS-1:0] results
);
    localparam int TAPS = INPUTS * KERNEL_Y * KERNEL_X;
    localparam int CODE_WORDS = GROUPS * BLOCKS * TAPS;
    localparam int CODE_ADDRESS_BITS = CODE_WORDS > 1 ? $clog2(CODE_WORDS) : 1;
    localparam int POSITIONS = OUT_HEIGHT * OUT_WIDTH, POSITION_BITS = $clog2(POSITIONS + 1);
    localparam int SUM_WORDS = GROUPS * BLOCKS * POSITIONS, SUM_WORD_BITS = $clog2(SUM_WORDS + 1);

    logic [X_BITS-1:0] inputs[NUMBERS];
    logic [LANES*CODE_BITS-1:0] codes[CODE_WORDS];
    initial $readmemh(CODES_FILE, codes, 0, CODE_WORDS - 1);

    // Cycle 1: addresses. The last tap of a sum waits until the sum before it is finished.
    logic running, advance, in_image, first, last, finishing;
    logic [ADDRESS_BITS-1:0] address;
    logic [CODE_ADDRESS_BITS-1:0] code_address;
    assign advance = running && !(last && finishing);
    apot_taps #(
        .GROUPS(GROUPS), .BLOCKS(BLOCKS), .INPUTS(INPUTS), .HEIGHT(HEIGHT), .WIDTH(WIDTH),
        .OUT_HEIGHT(OUT_HEIGHT), .OUT_WIDTH(OUT_WIDTH), .KERNEL_Y(KERNEL_Y), .KERNEL_X(KERNEL_X),
        .STRIDE_Y(STRIDE_Y), .STRIDE_X(STRIDE_X), .PADDING_Y(PADDING_Y), .PADDING_X(PADDING_X),
        .DILATION_Y(DILATION_Y), .DILATION_X(DILATION_X), .ADDRESS_BITS(ADDRESS_BITS),
        .CODE_ADDRESS_BITS(CODE_ADDRESS_BITS)
    ) taps (.clk, .start, .advance, .running, .address, .in_image, .code_address, .first, .last);

    // Cycle 2: x and its codes are there.
    logic [X_BITS-1:0] x;
    logic [LANES*CODE_BITS-1:0] code_word;
    logic read, read_inside, read_first, read_last;
    always_ff @(posedge clk) begin
        if (load) inputs[load_address] <= load_x;
        x <= inputs[address];
        code_word <= codes[code_address];
        {read, read_inside, read_first, read_last} <= {advance, in_image, first, last};
    end
    apot_line #(
        .LANES(LANES), .X_BITS(X_BITS), .X_SIGNED(X_SIGNED), .CODE_BITS(CODE_BITS),
        .CODE_SIGNED(CODE_SIGNED), .FIELDS(FIELDS), .FIELD_LOW(FIELD_LOW), .ENTRIES(ENTRIES),
        .TERMS(TERMS), .PRODUCT_BITS(PRODUCT_BITS), .SUM_BITS(SUM_BITS)
    ) line (
        .clk, .step(read), .first(read_first), .x(x & {X_BITS{read_inside}}), .codes(code_word),
        .sums(partial_sums)
    );

    // Cycle 3: the sums have grown. Complete ones are kept until they are finished.
    logic complete;
    always_ff @(posedge clk) begin
        accumulated <= read;
        complete <= read && read_last;
    end

    logic finished;
    if (MODE == 0) begin : store
        assign finishing = 0;
        assign sums = partial_sums;
        assign finished = complete;
        assign results = sums;
    end else begin : finish
        localparam int RECORD_WORDS = GROUPS * BLOCKS * WORDS;
        localparam int RECORD_BITS = RECORD_WORDS > 1 ? $clog2(RECORD_WORDS) : 1;
        localparam int COUNT_BITS = $clog2(WORDS + 1);
        logic [LANES*WORD_BITS-1:0] records[RECORD_WORDS];
        initial $readmemh(RECORDS_FILE, records, 0, RECORD_WORDS - 1);
        logic [RECORD_BITS-1:0] record;
        logic [COUNT_BITS-1:0] count;
        logic [POSITION_BITS-1:0] position;
        logic reading;
        always_ff @(posedge clk) begin
            if (start) {finishing, reading, record, position} <= '0;
            else begin
                if (advance && last) finishing <= 1;
                if (finished) finishing <= 0;
                if (complete) begin
                    sums <= partial_sums;
                    reading <= 1;
                    count <= '0;
                end else if (reading) begin
                    count <= count + 1'b1;
                    if (count == COUNT_BITS'(WORDS - 1)) begin
                        reading <= 0;
                        position <= position + 1'b1;
                        if (position == POSITION_BITS'(POSITIONS - 1)) begin
                            position <= '0;
                            record <= record + RECORD_BITS'(WORDS);
                        end
                    end
                end
            end
        end

        // One cycle later: the record's word is there.
        logic [LANES*WORD_BITS-1:0] record_word;
        logic word_read, word_first, word_last;
        always_ff @(posedge clk) begin
            record_word <= records[record+RECORD_BITS'(count)];
            word_read <= reading;
            word_first <= count == '0;
            word_last <= reading && count == COUNT_BITS'(WORDS - 1);
            finished <= word_last && !start;
        end
        for (genvar i = 0; i < LANES; i++) begin : lanes
            apot_finish #(
                .MODE(MODE), .SUM_BITS(SUM_BITS), .WORD_BITS(WORD_BITS), .WORDS(WORDS),
                .SHIFT(SHIFT), .RESULT_BITS(RESULT_BITS), .LEVELS(LEVELS)
            ) finisher (
                .clk, .step(word_read), .first(word_first),
                .word(record_word[WORD_BITS*i+:WORD_BITS]), .sum(sums[SUM_BITS*i+:SUM_BITS]),
                .result(results[RESULT_BITS*i+:RESULT_BITS])
            );
        end
    end

    logic [SUM_WORD_BITS-1:0] left;
    assign result_valid = finished;
    assign busy = left != '0;
    always_ff @(posedge clk)
        if (start) left <= SUM_WORD_BITS'(SUM_WORDS);
        else if (finished) left <= left - 1'b1;
    initial left = '0;
endmodule
