package email

import (
	"context"
	"errors"
	"net"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// step is how far a message came.
type step string

const (
	settings     step = "the settings"
	composing    step = "the message"
	connecting   step = "connecting"
	securing     step = "TLS"
	greeting     step = "the greeting"
	login        step = "AUTH"
	sender       step = "MAIL"
	recipient    step = "RCPT"
	content      step = "DATA"
	confirmation step = "the end of DATA"
)

var (
	errNoUTF8   = errors.New("the recipient's address is not ASCII, and the server offers no SMTPUTF8")
	errNoAnswer = errors.New("the server's answer has not the form of one")
)

// failure is why a message was not delivered, in words that hold no address.
type failure struct {
	at        step
	code      int    // of the server's answer; 0 where it gave none
	enhanced  string // RFC 3463, where the answer has it
	text      string // of the answer, if it may be shown
	cause     error  // where there was no answer
	permanent bool
}

func (f *failure) Error() string {
	parts := []string{"smtp: " + string(f.at) + ":"}
	switch {
	case f.code != 0:
		parts = append(parts, strconv.Itoa(f.code), f.enhanced, f.text)
	case f.text != "":
		parts = append(parts, f.text)
	default:
		parts = append(parts, shown(f.cause.Error()))
	}
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}

func (f *failure) Unwrap() error { return f.cause }

// Permanent reports whether the same message would fail the same way tomorrow.
func Permanent(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.permanent
}

// failed makes of an error what may be shown. Where a text of the server holds
// one of private, as it may when it repeats what it was told, all of it is left
// out; and of its answer to AUTH it always is.
func failed(ctx context.Context, at step, err error, private ...string) error {
	if answer, ok := errors.AsType[*textproto.Error](err); ok {
		f := &failure{at: at, code: answer.Code}
		f.enhanced, f.text = readAnswer(answer)
		f.permanent = aboutMessage(at, f.code, f.enhanced)
		if at == login || repeats(answer.Msg, private) {
			f.text = ""
		}
		return f
	}
	if ctx.Err() != nil {
		return &failure{at: at, text: "no answer in time", cause: ctx.Err()}
	}
	if _, ok := errors.AsType[textproto.ProtocolError](err); ok && repeats(err.Error(), private) {
		err = errNoAnswer
	}
	f := &failure{at: at, cause: err, permanent: errors.Is(err, errNoUTF8)}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		f.text = op.Op + ": " + shown(op.Err.Error()) // without the IP addresses
	}
	return f
}

func repeats(text string, private []string) bool {
	text = strings.ToLower(text)
	return slices.ContainsFunc(private, func(secret string) bool {
		return secret != "" && strings.Contains(text, strings.ToLower(secret))
	})
}

var (
	enhancedCode = regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3}\b`)
	mailAddress  = regexp.MustCompile(`[^\s<>()"',;:]*@[^\s<>()"',;:]+`)
)

// readAnswer takes an answer of one or several lines apart; each of them begins
// with the same enhanced code (RFC 2034, 4).
func readAnswer(answer *textproto.Error) (enhanced, text string) {
	var rest []string
	for line := range strings.SplitSeq(answer.Msg, "\n") {
		line = strings.TrimSpace(line)
		if code := enhancedCode.FindString(line); code != "" {
			enhanced, line = code, line[len(code):]
		}
		rest = append(rest, line)
	}
	return enhanced, shown(strings.Join(rest, " "))
}

// maxText is how much of an answer is shown, in runes.
const maxText = 200

// shown is text on one line, bounded, its e-mail addresses masked.
func shown(text string) string {
	return oneLine(mailAddress.ReplaceAllString(text, "<address>"), maxText)
}

// aboutMessage reports whether an answer refuses this message or this
// recipient, and not us: a login, a relay that does not know us, a block list,
// SPF and DKIM, a quota or a server that is set up wrong can be mended within
// the day for which a message is tried. (RFC 5321, 4.2; RFC 3463; RFC 7372.)
//
// MAIL tells the server only who we are, so what it refuses there is our
// sender, but for the size.
func aboutMessage(at step, code int, enhanced string) bool {
	tooBig := enhanced == "5.3.4" || code == 552 && enhanced == ""
	mailboxFull := enhanced == "5.2.2" || code == 552 && enhanced == "" && at == recipient // RFC 3463 wants a 4.2.2
	switch {
	case code < 500 || mailboxFull || at != sender && at != recipient && at != content && at != confirmation:
		return false
	case tooBig || at == sender:
		return tooBig
	}
	switch code {
	case 500, 502, 503, 504, 530, 534, 535, 538: // commands and logins
		return false
	}
	switch enhanced {
	case "5.3.2", "5.3.3", "5.3.5", // the server takes nothing, or is set up wrong
		"5.4.5",                   // a quota, or congestion
		"5.5.1", "5.5.2", "5.5.4": // commands
		return false
	}
	detail, policy := strings.CutPrefix(enhanced, "5.7.")
	if !policy {
		return true
	}
	// Before the content is known, a policy is about who sends; after it, it is
	// about the content, unless the domain's own records failed it.
	return at != recipient && (len(detail) != 2 || detail[0] != '2')
}
