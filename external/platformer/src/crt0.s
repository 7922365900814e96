; Start of Cinderfoot: cartridge header, reset, the interrupt of the vertical blank, and access to the picture unit.

        .import   _main, copydata
        .importzp sp
        .export   __STARTUP__ : absolute = 1
        .export   _ppu_off, _ppu_on, _wait_frame, _flush_column, _load_palette, _read_pad, _random, _flags_at
        .import   _metatile_flags
        .exportzp _probe_x, _random_state, _pad, _scroll_x, _scroll_page, _column_pending, _column_address
        .exportzp _attribute_address, _erase_pending, _erase_address, _frame_count, _frame_ready
        .export   _column_tiles, _column_attributes, _palette_buffer
        .export   _oam

        C_STACK_TOP = $8000

        .segment "HEADER"
        .byte "NES", $1A
        .byte 2, 1              ; 2 x 16 KiB program, 1 x 8 KiB tiles
        .byte %00000001, 0      ; vertical mirroring, mapper 0
        .byte 1, 0, 0, 0, 0, 0, 0, 0

        .segment "ZEROPAGE" : zeropage
_random_state:      .res 2
_probe_x:           .res 2
_pad:               .res 1
_scroll_x:          .res 1
_scroll_page:       .res 1
_column_pending:    .res 1
_column_address:    .res 2
_attribute_address: .res 2
_erase_pending:     .res 1
_erase_address:     .res 2
_frame_count:       .res 1
_frame_ready:       .res 1
control:            .res 1
cell:               .res 2
mask:               .res 1

        .segment "FAST" : absolute
_column_tiles:      .res 60
_column_attributes: .res 8
_palette_buffer:    .res 32

_oam = $0200

        .segment "STARTUP"
reset:  sei
        cld
        ldx #$40
        stx $4017               ; no interrupts of the sound unit
        ldx #$FF
        txs
        inx
        stx $2000
        stx $2001
        stx $4010
        bit $2002
:       bit $2002
        bpl :-
        txa
clear:  sta $0000,x
        sta $0100,x
        sta $0200,x
        sta $0300,x
        sta $0400,x
        sta $0500,x
        sta $0600,x
        sta $0700,x
        inx
        bne clear
        ldy #$60                ; work RAM, page by page
        sty $01
        ldy #0
:       sta ($00),y
        iny
        bne :-
        inc $01
        ldx $01
        cpx #$80
        bne :-
        sta $01
:       bit $2002
        bpl :-
        lda #<C_STACK_TOP
        sta sp
        lda #>C_STACK_TOP
        sta sp+1
        jsr copydata
        lda #$0F                ; sound: the four simple channels
        sta $4015
        lda #%10100000          ; interrupt on, sprites of 8x16
        sta control
        sta $2000
        jmp _main

; The vertical blank: copy sprites, a column of the level, an erased metatile; then set the scroll position.
nmi:    pha
        txa
        pha
        tya
        pha
        inc _frame_count
        lda mask                ; picture off: the program itself writes to the picture unit
        beq @done
        lda _frame_ready
        beq @late
        lda #0
        sta $2003
        lda #>_oam
        sta $4014
        lda _column_pending
        beq :+
        jsr _flush_column
:       lda _erase_pending
        beq :+
        jsr erase
:       lda #0
        sta _frame_ready
@late:  bit $2002
        lda _scroll_x
        sta $2005
        lda #0
        sta $2005
        lda _scroll_page
        and #1
        ora control
        sta $2000
        lda mask
        sta $2001
@done:  pla
        tay
        pla
        tax
        pla
irq:    rti

; Clear 2x2 tiles at erase_address.
erase:  bit $2002
        lda _erase_address+1
        sta $2006
        lda _erase_address
        sta $2006
        lda #0
        sta $2007
        sta $2007
        lda _erase_address+1
        sta $2006
        lda _erase_address
        ora #$20                ; the row below: metatiles start on even rows
        sta $2006
        lda #0
        sta $2007
        sta $2007
        sta _erase_pending
        rts

        .segment "CODE"

; Write column_tiles (2 x 30) and column_attributes (8) to the picture unit.
_flush_column:
        bit $2002
        lda control
        ora #%00000100          ; steps of 32: downwards
        sta $2000
        ldx #0
        lda _column_address+1
        sta $2006
        lda _column_address
        sta $2006
:       lda _column_tiles,x
        sta $2007
        lda _column_tiles+1,x
        sta $2007
        lda _column_tiles+2,x
        sta $2007
        inx
        inx
        inx
        cpx #30
        bne :-
        lda _column_address+1
        sta $2006
        lda _column_address
        ora #1                  ; columns start on even tiles
        sta $2006
:       lda _column_tiles,x
        sta $2007
        lda _column_tiles+1,x
        sta $2007
        lda _column_tiles+2,x
        sta $2007
        inx
        inx
        inx
        cpx #60
        bne :-
        lda control
        sta $2000
        ldx #0
        ldy _attribute_address
:       lda _attribute_address+1
        sta $2006
        sty $2006
        lda _column_attributes,x
        sta $2007
        tya
        clc
        adc #8
        tay
        inx
        cpx #8
        bne :-
        lda #0
        sta _column_pending
        rts

; Picture off at once.
_ppu_off:
        lda #0
        sta mask
        sta $2001
        rts

; Picture on from the next vertical blank.
_ppu_on:
        lda #%00011110
        sta mask
        rts

; Hand the prepared frame to the interrupt and wait until it has been shown.
_wait_frame:
        lda #1
        sta _frame_ready
:       lda _frame_ready
        bne :-
        rts

; Copy palette_buffer (32) to the picture unit; only while the picture is off.
_load_palette:
        bit $2002
        lda #$3F
        sta $2006
        lda #0
        sta $2006
        tax
:       lda _palette_buffer,x
        sta $2007
        inx
        cpx #32
        bne :-
        rts

; Buttons of controller 1: A B Select Start Up Down Left Right, from the highest bit.
_read_pad:
        lda #1
        sta $4016
        sta _pad
        lsr a
        sta $4016
:       lda $4016
        lsr a
        rol _pad
        bcc :-
        lda _pad
        rts

; Next number from 0 to 255 (a 16-bit linear feedback shift register, eight steps).
_random:
        ldy #8
        lda _random_state
:       asl a
        rol _random_state+1
        bcc :+
        eor #$39
:       dey
        bne :--
        sta _random_state
        ldx #0
        rts

; Properties of the metatile at (probe_x, row a), both in pixels.
_flags_at:
        lsr a
        lsr a
        lsr a
        lsr a
        sta cell
        lda _probe_x
        and #$F0
        ora cell
        sta cell
        lda _probe_x+1
        clc
        adc #$60
        sta cell+1
        ldy #0
        lda (cell),y
        tay
        lda _metatile_flags,y
        ldx #0
        rts

        .segment "CHARS"
        .incbin "graphics.chr"

        .segment "VECTORS"
        .word nmi, reset, irq
