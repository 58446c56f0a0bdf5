package webhook

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	oneSecret     = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" // that of the test vector
	anotherSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
)

// The vector that the libraries of Standard Webhooks are tested with.
func TestSignatureVector(t *testing.T) {
	t.Parallel()
	s, err := ParseSecrets(oneSecret)
	require.NoError(t, err)
	signature, err := s.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	require.NoError(t, err)
	assert.Equal(t, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", signature)
}

func TestTwoSecretsSignBoth(t *testing.T) {
	t.Parallel()
	s, err := ParseSecrets(" " + oneSecret + "\n" + anotherSecret + "\n")
	require.NoError(t, err)
	now, body := time.Now(), []byte(`{}`)
	signature, err := s.sign("id", now, body)
	require.NoError(t, err)
	require.Len(t, strings.Split(signature, " "), 2)
	header := http.Header{}
	header.Set("webhook-id", "id")
	header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	header.Set("webhook-signature", signature)
	for secret, want := range map[string]error{
		oneSecret: nil, anotherSecret: nil,
		secretOf(24, 'x'): standardwebhooks.ErrNoMatchingSignature,
	} {
		verifier, err := standardwebhooks.NewWebhook(secret)
		require.NoError(t, err)
		require.ErrorIs(t, verifier.Verify(body, header), want)
	}
}

func TestParseSecrets(t *testing.T) {
	t.Parallel()
	long := "Sm9obiB3YXMgaGVyZSBpbiB0aGUgcm9vbQ"
	for _, c := range []struct{ name, text, fault string }{
		{"one of the fewest bytes", secretOf(24, 'a'), ""},
		{"one of the most", secretOf(64, 'a'), ""},
		{"two", secretOf(24, 'a') + " " + secretOf(32, 'b'), ""},
		{"none", "", "holds 0 secrets"},
		{"space", " \n", "holds 0 secrets"},
		{"three", secretOf(24, 'a') + " " + secretOf(24, 'b') + " " + secretOf(24, 'c'), "holds 3 secrets"},
		{"too short", secretOf(23, 'a'), "secret 1 of 1"},
		{"too long", secretOf(65, 'a'), "secret 1 of 1"},
		{"without its prefix", strings.TrimPrefix(oneSecret, "whsec_"), "secret 1 of 1"},
		{"the second is none", oneSecret + " " + long, "secret 2 of 2"},
		{"no base64", "whsec_" + long + "!!", "secret 1 of 1"},
		{"not padded", "whsec_" + long, "secret 1 of 1"},
		{"bits after its end", "whsec_" + strings.Repeat("A", 33) + "B==", "secret 1 of 1"},
		{"twice the same", oneSecret + " " + oneSecret, "the same secret"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseSecrets(c.text)
			if c.fault == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.fault)
			assert.Contains(t, err.Error(), "TOKENALERT_WEBHOOK_SECRET")
		})
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	s, err := ParseSecrets(oneSecret)
	require.NoError(t, err)
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, value := range []any{s, &s, Options{Secrets: s}} {
			assert.Contains(t, fmt.Sprintf(format, value), "(not shown)", format)
		}
	}
}

// Whatever is given, it is refused without a word of it, or signs what the
// library verifies with each secret.
func FuzzParseSecrets(f *testing.F) {
	for _, text := range []string{"", oneSecret, oneSecret + " " + anotherSecret, "whsec_", "whsec_====", "whsec_\xff", "whsk_AAAA", oneSecret + "\x00" + anotherSecret} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSecrets(text)
		if err != nil {
			for field := range strings.FieldsSeq(text) {
				if len(field) > 12 { // a shorter one may be a word of the message
					require.NotContains(t, err.Error(), field)
				}
			}
			return
		}
		now := time.Now()
		signature, err := s.sign("id", now, []byte(text))
		require.NoError(t, err)
		header := http.Header{"Webhook-Id": {"id"}, "Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)}, "Webhook-Signature": {signature}}
		for secret := range strings.FieldsSeq(text) {
			verifier, err := standardwebhooks.NewWebhook(secret)
			require.NoError(t, err)
			require.NoError(t, verifier.Verify([]byte(text), header))
		}
	})
}

func secretOf(bytes int, fill byte) string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(fill), bytes)))
}
