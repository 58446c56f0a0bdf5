package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const commandsPage = "../../docs/commands.md"

// everyCommand calls see for root and all below it, in the order of the help.
func everyCommand(root *cobra.Command, see func(*cobra.Command)) {
	if !root.HasParent() {
		root.InitDefaultHelpCmd()
		root.InitDefaultCompletionCmd()
	}
	see(root)
	for _, command := range root.Commands() {
		if command.IsAvailableCommand() && command.Name() != "completion" && command.Name() != "help" {
			everyCommand(command, see)
		}
	}
}

func TestHelpTeaches(t *testing.T) {
	t.Parallel()
	everyCommand(newRoot(), func(command *cobra.Command) {
		assert.NotEmpty(t, command.Short, command.CommandPath())
		assert.Greater(t, len(command.Long), len(command.Short), "%s says no more than its title", command.CommandPath())
		assert.Contains(t, command.Example, "tokenalert ", "%s has no example", command.CommandPath())
		for line := range strings.Lines(command.Long + "\n" + command.Example) {
			if !strings.Contains(line, databaseVar) && !strings.Contains(line, prefix) { // settings are a table
				assert.LessOrEqual(t, len([]rune(strings.TrimRight(line, "\n"))), 85, "%s: %s", command.CommandPath(), line)
			}
		}
	})
}

// TestCommandsPage holds docs/commands.md to what --help says.
func TestCommandsPage(t *testing.T) {
	t.Parallel()
	var page strings.Builder
	page.WriteString("# Commands\n\nWhat `--help` says. Written by `go test ./cmd/tokenalert -run TestCommandsPage -update`.\n")
	everyCommand(newRoot(), func(command *cobra.Command) {
		var out bytes.Buffer
		command.InitDefaultHelpFlag()
		command.SetOut(&out)
		require.NoError(t, command.Help())
		page.WriteString("\n## " + command.CommandPath() + "\n\n```\n" + strings.TrimSpace(out.String()) + "\n```\n")
	})
	if *update {
		require.NoError(t, os.WriteFile(commandsPage, []byte(page.String()), 0o644))
		return
	}
	text, err := os.ReadFile(commandsPage)
	require.NoError(t, err)
	assert.Equal(t, page.String(), string(text), "go test ./cmd/tokenalert -run TestCommandsPage -update")
}

func TestWhatIsNearIsSuggested(t *testing.T) {
	t.Parallel()
	for args, says := range map[string]string{
		"stauts":             "did you mean status?",
		"migrate upp":        "did you mean up?",
		"frobnicate":         `unknown command "frobnicate"; see`,
		"status -o yaml":     "must be one of text, json",
		"status --users x":   "--users",
		"status --users 0":   "must be from 1 to 1000",
		"status --every 1ms": "must be at least 100ms",
	} {
		exit, stdout, stderr := typed(t, nil, strings.Fields(args)...)
		assert.Equal(t, 2, exit, args)
		assert.Contains(t, stderr, says)
		assert.Empty(t, stdout)
	}
}

// TestShellsComplete asks each shell that is here whether it takes its script,
// and the binary what it would suggest.
func TestShellsComplete(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		exit, script, stderr := typed(t, nil, "completion", shell)
		assert.Equal(t, 0, exit, stderr)
		assert.Contains(t, script, "tokenalert")
		if _, err := exec.LookPath(shell); err != nil || shell == "powershell" {
			continue
		}
		check := exec.CommandContext(t.Context(), shell, "-n")
		check.Stdin = strings.NewReader(script)
		out, err := check.CombinedOutput()
		require.NoError(t, err, "%s: %s", shell, out)
	}
	for typing, suggestions := range map[string][]string{
		"":                 {"demo", "migrate", "run", "status"},
		"migrate ":         {"up", "down", "grant", "status"},
		"status --output ": {"text", "json"},
	} {
		args := append([]string{"__complete"}, strings.Split(typing, " ")...)
		exit, stdout, stderr := typed(t, nil, args...)
		assert.Equal(t, 0, exit, stderr)
		for _, s := range suggestions {
			assert.Regexp(t, "(?m)^"+s+"\\b", stdout, typing)
		}
	}
}
