package mailserver

import (
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Letter is a message as a mail program reads it.
type Letter struct {
	Header   mail.Header
	Subject  string
	From, To []*mail.Address
	Types    []string // of its parts, or of itself where it has none
	Parts    []string
}

// Read reads a message, which is to be of one text or of alternatives.
func Read(t testing.TB, raw string) Letter {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(raw))
	require.NoError(t, err)
	l := Letter{Header: m.Header}
	l.Subject, err = new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	require.NoError(t, err)
	l.From, err = m.Header.AddressList("From")
	require.NoError(t, err)
	l.To, err = m.Header.AddressList("To")
	require.NoError(t, err)
	kind, parameters, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	require.NoError(t, err)
	if kind != "multipart/alternative" {
		require.Equal(t, "quoted-printable", m.Header.Get("Content-Transfer-Encoding"))
		l.add(t, m.Header.Get("Content-Type"), quotedprintable.NewReader(m.Body))
		return l
	}
	reader := multipart.NewReader(m.Body, parameters["boundary"])
	for {
		part, err := reader.NextPart() // undoes quoted-printable
		if errors.Is(err, io.EOF) {
			return l
		}
		require.NoError(t, err)
		l.add(t, part.Header.Get("Content-Type"), part)
	}
}

func (l *Letter) add(t testing.TB, contentType string, body io.Reader) {
	t.Helper()
	kind, parameters, err := mime.ParseMediaType(contentType)
	require.NoError(t, err)
	require.Equal(t, "UTF-8", parameters["charset"])
	text, err := io.ReadAll(body)
	require.NoError(t, err)
	l.Types = append(l.Types, kind)
	l.Parts = append(l.Parts, strings.ReplaceAll(string(text), "\r\n", "\n"))
}
