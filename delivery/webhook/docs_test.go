package webhook

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// block is what stands in docs/webhooks.md between ```kind and ```.
func block(t *testing.T, kind string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/webhooks.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(page), "\n```"+kind+"\n")
	require.True(t, found, "docs/webhooks.md has no block of %s", kind)
	text, _, found := strings.Cut(rest, "\n```\n")
	require.True(t, found)
	return text
}

// The receiver in docs/webhooks.md is the one of the example, which runs.
func TestExampleAsDocumented(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	assert.Contains(t, string(example), block(t, "go"))
}

func TestShellAsDocumented(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	sh := func(t *testing.T, script string, variables ...string) (string, error) {
		command := exec.CommandContext(t.Context(), "sh", "-c", script)
		command.Dir = t.TempDir()
		command.Env = append(os.Environ(), variables...)
		require.NoError(t, os.WriteFile(filepath.Join(command.Dir, "body"), encoded(t, anEvent()), 0o600))
		out, err := command.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}

	made, err := sh(t, block(t, "sh make"))
	require.NoError(t, err, made)
	zeroes := "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 24)) // which a shell could not hold
	at := time.Unix(1_764_339_552, 0)
	both, err := ParseSecrets(made + " " + zeroes)
	require.NoError(t, err)
	signature, err := both.sign("an-id", at, encoded(t, anEvent()))
	require.NoError(t, err)
	for _, c := range []struct{ name, secret, id, want string }{
		{"the first secret", made, "an-id", "verified"},
		{"the second secret", zeroes, "an-id", "verified"},
		{"another secret", oneSecret, "an-id", "not verified"},
		{"another id", made, "another", "not verified"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			out, err := sh(t, block(t, "sh verify"), "id="+c.id, "timestamp="+strconv.FormatInt(at.Unix(), 10),
				"signature="+signature, "secret="+c.secret)
			assert.Equal(t, c.want, out)
			assert.Equal(t, c.want == "verified", err == nil)
		})
	}
}
