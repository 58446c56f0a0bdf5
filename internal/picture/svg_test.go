package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"testing"

	"github.com/hinshun/vt10x"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDrawsWhatIsSeen(t *testing.T) {
	t.Parallel()
	emulator := vt10x.New(vt10x.WithSize(20, 2))
	_, err := emulator.Write([]byte("\x1b[1mA & <B>\x1b[0m plain\r\n\x1b[38;5;203m██▌\x1b[0m\x1b[48;5;236m  \x1b[0m"))
	require.NoError(t, err)
	var svg bytes.Buffer
	draw(&svg, 20, 2, emulator.Cell)

	decoder := xml.NewDecoder(bytes.NewReader(svg.Bytes()))
	var text string
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err, "not well formed")
		if data, ok := token.(xml.CharData); ok {
			text += string(data)
		}
	}
	assert.Contains(t, text, "A & <B>")
	assert.Contains(t, text, "plain")
	for _, says := range []string{
		`font-weight="bold"`,
		`<rect x="14.0" y="35.0" width="16.8" height="13.0" fill="#ff5f5f"/>`, // two full blocks
		`<rect x="30.8" y="35.0" width="4.2" height="13.0" fill="#ff5f5f"/>`,  // half a cell
		`width="16.8" height="13.0" fill="#303030"/>`,                         // the track
	} {
		assert.Contains(t, svg.String(), says)
	}
	assert.NotContains(t, svg.String(), "█")
}

func TestColours(t *testing.T) {
	t.Parallel()
	for c, want := range map[vt10x.Color]string{
		1: "#cd3131", 16: "#000000", 35: "#00af5f", 203: "#ff5f5f", 208: "#ff8700", 220: "#ffd700", 231: "#ffffff",
		232: "#080808", 236: "#303030", 255: "#eeeeee", vt10x.DefaultFG: "otherwise",
	} {
		assert.Equal(t, want, colour(c, "otherwise"), "%d", c)
	}
}
