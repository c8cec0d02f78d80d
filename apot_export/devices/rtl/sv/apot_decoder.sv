// The shift-add decoder: the magnitude of a coded weight times x, without a multiplier.
//
// A code has one selector field per digit table, field 0 lowest, and a sign bit above them if
// CODE_SIGNED (FORMAT.md, section 3.2). A field selects one term: nothing, or x shifted left by a
// constant, possibly negated. The product is the sum of the terms.
module apot_decoder #(
    parameter int X_BITS = 4,
    parameter bit X_SIGNED = 0,
    parameter int CODE_BITS = 4,
    parameter bit CODE_SIGNED = 1,
    parameter int FIELDS = 2,
    // Lowest bit of each field, and of what is above the last: 8 bits each, field 0 lowest.
    parameter bit [8*FIELDS+7:0] FIELD_LOW = {8'd3, 8'd2, 8'd0},
    parameter int ENTRIES = 4,  // terms of the largest table
    // ENTRIES terms a field, field 0 lowest. A term is a byte: 0 adds nothing; else bits 0 to 5 are
    // the shift, bit 6 is 1, and bit 7 negates.
    parameter bit [8*ENTRIES*FIELDS-1:0] TERMS = {8'h00, 8'h00, 8'h41, 8'h00, 8'h40, 8'h42, 8'h43, 8'h00},
    parameter int PRODUCT_BITS = 9
) (
    input logic [X_BITS-1:0] x,
    input logic [CODE_BITS-1:0] code,
    output logic negative,
    output logic signed [PRODUCT_BITS-1:0] product
);
    logic signed [X_BITS:0] signed_x;
    logic signed [PRODUCT_BITS-1:0] wide;
    assign signed_x = {X_SIGNED & x[X_BITS-1], x};
    assign wide = PRODUCT_BITS'(signed_x);
    assign negative = CODE_SIGNED & code[CODE_BITS-1];
    assign product = fields[FIELDS-1].sum;

    for (genvar f = 0; f < FIELDS; f++) begin : fields
        localparam int LOW = 32'(FIELD_LOW[8*f+:8]);
        localparam int BITS = 32'(FIELD_LOW[8*f+8+:8]) - LOW;
        localparam int COUNT = 1 << BITS;
        logic [BITS-1:0] selector;
        logic signed [PRODUCT_BITS-1:0] sum;  // of the terms of this field and of those below
        assign selector = code[LOW+:BITS];
        if (f == 0) assign sum = entries[COUNT-1].chosen;
        else assign sum = fields[f-1].sum + entries[COUNT-1].chosen;
        for (genvar e = 0; e < COUNT; e++) begin : entries
            localparam bit [7:0] TERM = TERMS[8*(ENTRIES*f+e)+:8];
            logic signed [PRODUCT_BITS-1:0] term, chosen;
            if (!TERM[6]) assign term = '0;
            else if (TERM[7]) assign term = -(wide <<< TERM[5:0]);
            else assign term = wide <<< TERM[5:0];
            if (e == 0) assign chosen = term & {PRODUCT_BITS{selector == BITS'(e)}};
            else assign chosen = entries[e-1].chosen | (term & {PRODUCT_BITS{selector == BITS'(e)}});
        end
    end
endmodule
