// The taps of a convolution in the order of computation, with their addresses, by additions alone.
//
// Outermost first: group, block of outputs, output row, output column; then the taps of one sum:
// input channel, kernel row, kernel column.
module apot_taps #(
    parameter int GROUPS = 1,
    parameter int BLOCKS = 1,  // of outputs, in one group
    parameter int INPUTS = 1,  // channels of one group
    parameter int HEIGHT = 1, WIDTH = 1,
    parameter int OUT_HEIGHT = 1, OUT_WIDTH = 1,
    parameter int KERNEL_Y = 1, KERNEL_X = 1,
    parameter int STRIDE_Y = 1, STRIDE_X = 1,
    parameter int PADDING_Y = 0, PADDING_X = 0,
    parameter int DILATION_Y = 1, DILATION_X = 1,
    parameter int ADDRESS_BITS = 1,  // of inputs, in C order [channel, row, column]
    parameter int CODE_ADDRESS_BITS = 1  // of code words: [group, block, tap]
) (
    input logic clk,
    input logic start,
    input logic advance,  // to the next tap
    output logic running,
    output logic [ADDRESS_BITS-1:0] address,
    output logic in_image,  // not in the padding, where inputs are 0
    output logic [CODE_ADDRESS_BITS-1:0] code_address,
    output logic first,
    output logic last  // tap of its sum
);
    localparam int TAPS = INPUTS * KERNEL_Y * KERNEL_X;
    localparam int ROW_BITS = $clog2(HEIGHT + 2 * PADDING_Y + KERNEL_Y * DILATION_Y + STRIDE_Y) + 1;
    localparam int COLUMN_BITS = $clog2(WIDTH + 2 * PADDING_X + KERNEL_X * DILATION_X + STRIDE_X) + 1;
    localparam int GROUP_BITS = $clog2(GROUPS + 1), BLOCK_BITS = $clog2(BLOCKS + 1);
    localparam int INPUT_BITS = $clog2(INPUTS + 1);
    localparam int KY_BITS = $clog2(KERNEL_Y + 1), KX_BITS = $clog2(KERNEL_X + 1);
    localparam int OY_BITS = $clog2(OUT_HEIGHT + 1), OX_BITS = $clog2(OUT_WIDTH + 1);
    // What an address grows by, from the last of the inner loops to the next of the outer one.
    localparam int NEXT_Y = DILATION_Y * WIDTH - (KERNEL_X - 1) * DILATION_X;
    localparam int NEXT_INPUT = HEIGHT * WIDTH - (KERNEL_Y - 1) * DILATION_Y * WIDTH
        - (KERNEL_X - 1) * DILATION_X;
    localparam int NEXT_ROW = STRIDE_Y * WIDTH - (OUT_WIDTH - 1) * STRIDE_X;
    localparam int ORIGIN = -PADDING_Y * WIDTH - PADDING_X;
    localparam int NEXT_GROUP = INPUTS * HEIGHT * WIDTH;

    logic [GROUP_BITS-1:0] group;
    logic [BLOCK_BITS-1:0] block;
    logic [OY_BITS-1:0] out_y;
    logic [OX_BITS-1:0] out_x;
    logic [INPUT_BITS-1:0] channel;
    logic [KY_BITS-1:0] kernel_y;
    logic [KX_BITS-1:0] kernel_x;
    logic signed [ROW_BITS-1:0] row, top;  // of the tap, and of the window's first tap
    logic signed [COLUMN_BITS-1:0] column, left;
    logic [ADDRESS_BITS-1:0] window, group_origin;  // of the window's first tap; of the first window
    logic [CODE_ADDRESS_BITS-1:0] codes;  // of the block's first tap

    logic last_kx, last_ky, last_ox, last_oy, last_block;
    assign last_kx = kernel_x == KX_BITS'(KERNEL_X - 1);
    assign last_ky = kernel_y == KY_BITS'(KERNEL_Y - 1);
    assign last_ox = out_x == OX_BITS'(OUT_WIDTH - 1);
    assign last_oy = out_y == OY_BITS'(OUT_HEIGHT - 1);
    assign last_block = block == BLOCK_BITS'(BLOCKS - 1);
    assign first = channel == '0 && kernel_y == '0 && kernel_x == '0;
    assign last = last_kx && last_ky && channel == INPUT_BITS'(INPUTS - 1);
    assign in_image = row >= 0 && row < ROW_BITS'(HEIGHT) && column >= 0 && column < COLUMN_BITS'(WIDTH);

    // The window after this one.
    logic signed [ROW_BITS-1:0] next_top;
    logic signed [COLUMN_BITS-1:0] next_left;
    logic [ADDRESS_BITS-1:0] next_window, next_origin;
    logic [CODE_ADDRESS_BITS-1:0] next_codes;
    always_comb begin
        next_origin = group_origin;
        next_codes = codes;
        next_top = top;
        next_left = left + COLUMN_BITS'(STRIDE_X);
        next_window = window + ADDRESS_BITS'(STRIDE_X);
        if (last_ox) begin
            next_left = -COLUMN_BITS'(PADDING_X);
            next_top = top + ROW_BITS'(STRIDE_Y);
            next_window = window + ADDRESS_BITS'(NEXT_ROW);
            if (last_oy) begin
                if (last_block) next_origin = group_origin + ADDRESS_BITS'(NEXT_GROUP);
                next_codes = codes + CODE_ADDRESS_BITS'(TAPS);
                next_top = -ROW_BITS'(PADDING_Y);
                next_window = next_origin;
            end
        end
    end

    always_ff @(posedge clk) begin
        if (start) begin
            {group, block, out_y, out_x, channel, kernel_y, kernel_x, codes, code_address} <= '0;
            {top, row} <= {2{-ROW_BITS'(PADDING_Y)}};
            {left, column} <= {2{-COLUMN_BITS'(PADDING_X)}};
            {group_origin, window, address} <= {3{ADDRESS_BITS'(ORIGIN)}};
            running <= 1;
        end else if (advance && last) begin
            {channel, kernel_y, kernel_x} <= '0;
            {top, row} <= {2{next_top}};
            {left, column} <= {2{next_left}};
            {window, address} <= {2{next_window}};
            {codes, code_address} <= {2{next_codes}};
            group_origin <= next_origin;
            out_x <= last_ox ? '0 : out_x + 1'b1;
            if (last_ox) out_y <= last_oy ? '0 : out_y + 1'b1;
            if (last_ox && last_oy) begin
                block <= last_block ? '0 : block + 1'b1;
                if (last_block) group <= group + 1'b1;
                if (last_block && group == GROUP_BITS'(GROUPS - 1)) running <= 0;
            end
        end else if (advance) begin
            code_address <= code_address + 1'b1;
            kernel_x <= last_kx ? '0 : kernel_x + 1'b1;
            column <= last_kx ? left : column + COLUMN_BITS'(DILATION_X);
            address <= address + ADDRESS_BITS'(DILATION_X);
            if (last_kx) begin
                kernel_y <= last_ky ? '0 : kernel_y + 1'b1;
                row <= last_ky ? top : row + ROW_BITS'(DILATION_Y);
                address <= address + ADDRESS_BITS'(last_ky ? NEXT_INPUT : NEXT_Y);
                if (last_ky) channel <= channel + 1'b1;
            end
        end
    end
    initial running = 0;
endmodule
