package email

import (
	"context"
	"errors"
	"fmt"
	"net/textproto"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPermanent(t *testing.T) {
	t.Parallel()
	// Each answer, and the steps at which it is about this message.
	const r, d = "recipient", "data"
	tests := map[string]string{
		// mailboxes and addresses
		"550 5.1.1 no such user": r + d, "550 no such user": r + d, "551 not local": r + d, "553 5.1.3 bad address": r + d,
		"550 5.1.10 null MX": r + d, "556 5.1.10 the domain takes no mail": r + d, "550 5.2.1 disabled": r + d, "550 5.4.1 no answer from the host": r + d,
		"550 5.5.0 mailbox unavailable": r + d, "501 5.1.3 syntax": r + d,
		// size
		"552 5.3.4 too big": "mail" + r + d, "552 too big, or at RCPT a full mailbox": "mail" + d,
		// content
		"554 5.6.0 bad content": r + d, "554 transaction failed": r + d,
		"554 5.7.1 refused": d, "550 5.7.0 policy": d, "550 5.7.509 spam": d, "552 5.7.0 attachment": d, "552 5.6.0 content": r + d,
		// ourselves
		"550 5.7.1":                         d,
		"550 5.7.26 unauthenticated domain": "", "550 5.7.23 SPF": "", "550 5.7.25 no reverse name": "",
		"530 5.7.0 STARTTLS first": "", "530 log in": "", "535 5.7.8 log in": "", "534 5.7.9 another password": "", "538 5.7.11 TLS": "",
		"550 5.4.5 quota of the day": "", "503 5.5.1 sequence": "", "500 what": "", "502 5.5.1 what": "", "504 5.5.4 what": "", "555 5.5.4 parameters": "", "554 5.5.1 what": "",
		"552 5.2.2 mailbox full": "", "550 5.3.2 not now": "", "554 5.3.5 set up wrong": "",
		// for now
		"421 4.3.2 busy": "", "450 4.2.0 greylisted": "", "451 local error": "", "452 4.2.2 full": "", "454 4.7.0 TLS": "",
		"250 5.1.1 odd": "", "334 odd": "",
	}
	for answer, want := range tests {
		var code int
		_, err := fmt.Sscan(answer, &code)
		require.NoError(t, err)
		for at, name := range map[step]string{
			greeting: "greeting", securing: "tls", login: "auth", sender: "mail", recipient: r, content: d, confirmation: d,
		} {
			err := failed(t.Context(), at, fmt.Errorf("wrapped: %w", &textproto.Error{Code: code, Msg: answer[min(4, len(answer)):]}))
			assert.Equal(t, strings.Contains(want, name), Permanent(err), "%s: %s", name, answer)
			assert.Equal(t, Permanent(err), Permanent(fmt.Errorf("deliver: %w", err)))
		}
	}
	assert.False(t, Permanent(nil))
	assert.False(t, Permanent(errors.New("550 5.1.1")))
	assert.False(t, Permanent(context.DeadlineExceeded))
}

func TestAnswersShowNoSecret(t *testing.T) {
	t.Parallel()
	private := []string{"ana.nunez", "Account7", "hunter2"}
	for answer, want := range map[string]string{
		"5.1.1 no such user":     "smtp: RCPT: 550 5.1.1 no such user",
		"no such user":           "smtp: RCPT: 550 no such user",
		"":                       "smtp: RCPT: 550",
		"4.1.1 of another class": "smtp: RCPT: 550 4.1.1 of another class",
		"5.1.1 no such user\n5.1.1 see the manual": "smtp: RCPT: 550 5.1.1 no such user see the manual",
		"5.1.1 <ana.nunez@example.org> unknown":    "smtp: RCPT: 550 5.1.1",
		"5.1.1 user ANA.NUNEZ unknown":             "smtp: RCPT: 550 5.1.1",
		"5.1.1 ana.nunez=example.org@relay":        "smtp: RCPT: 550 5.1.1",
		"5.1.1 account account7":                   "smtp: RCPT: 550 5.1.1",
		"5.1.1 hunter2":                            "smtp: RCPT: 550 5.1.1",
		"5.1.1 ask zoe@example.org, or <bob@x>":    "smtp: RCPT: 550 5.1.1 ask <address>, or <<address>>",
		"5.1.1 zoë@пример.example":                 "smtp: RCPT: 550 5.1.1 <address>",
		"5.1.1 a\x1b[31m\u202e\r\tb\xff":           "smtp: RCPT: 550 5.1.1 a [31m b\ufffd",
		"5.1.1 " + strings.Repeat("é", 500):        "smtp: RCPT: 550 5.1.1 " + strings.Repeat("é", 199) + "…",
	} {
		err := failed(t.Context(), recipient, &textproto.Error{Code: 550, Msg: answer}, private...)
		require.EqualError(t, err, want, "%q", answer)
	}
	err := failed(t.Context(), login, &textproto.Error{Code: 535, Msg: "5.7.8 wrong: AGFuYQBodW50ZXIy"}, private...)
	require.EqualError(t, err, "smtp: AUTH: 535 5.7.8", "what was sent may come back encoded")
	var answer *textproto.Error
	require.NotErrorAs(t, err, &answer, "the answer as it came is out of reach")
	err = failed(t.Context(), greeting, textproto.ProtocolError("short response: zoe@example.org\r\n"))
	require.EqualError(t, err, "smtp: the greeting: short response: <address>")
	err = failed(t.Context(), recipient, textproto.ProtocolError("short response: hunter2"), private...)
	require.EqualError(t, err, "smtp: RCPT: the server's answer has not the form of one")
}

// No answer shows an address, or breaks a line, or grows without bound.
func FuzzFailed(f *testing.F) {
	for _, text := range []string{"", " ", "\n", "5.1.1 ", "\n5.1.1 ", "<", "\xff", "@", "a@", "\u00a0", "é", "\x00", "=", ";", "@@"} {
		f.Add(text, text)
		f.Add(text, "")
		f.Add("", text)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		for _, address := range []string{"zoe.secret@hidden.example.org", "other@hidden.example.org"} {
			err := failed(t.Context(), recipient, &textproto.Error{Code: 550, Msg: before + address + after}, "zoe.secret")
			text := err.Error()
			require.NotContains(t, text, "hidden.example")
			require.NotContains(t, text, "zoe.secret")
			require.NotContains(t, text, "\n")
			require.Less(t, utf8.RuneCountInString(text), maxText+50)
		}
	})
}
