// Package transcript types what a page of documentation shows into a shell, and
// writes what that answers into the page. So a page shows what was seen, and a
// test sees that it still works.
package transcript

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// A Block is one block of shell commands and what it answered.
type Block struct {
	Commands string
	Answer   string
	Took     time.Duration
}

// block finds the commands of a page, with the answer that follows them.
var block = regexp.MustCompile("(?ms)^```sh\n(.*?)^```\n(?:\n```text\n.*?^```\n)?")

// Play types every block of the page into one shell, in the folder, and stops
// at the first command that fails. What the page starts in the background ends with it.
func Play(ctx context.Context, page, folder string, environment []string) ([]Block, error) {
	shell := exec.CommandContext(ctx, "sh", "-e")
	shell.Dir, shell.Env = folder, environment
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := shell.StdinPipe()
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = reader.Close() }()
	shell.Stdout, shell.Stderr = writer, writer
	if err := shell.Start(); err != nil {
		return nil, fmt.Errorf("start a shell: %w", err)
	}
	_ = writer.Close()                                                       // the shell has its own
	kill := func() { _ = syscall.Kill(-shell.Process.Pid, syscall.SIGKILL) } // fails where all have ended
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = shell.Wait()
		kill() // what it has left in the background would keep us waiting for its answer
	}()
	end := func() {
		kill()
		<-ended
	}
	defer end()
	defer context.AfterFunc(ctx, end)()

	answers := bufio.NewReader(reader)
	var played []Block
	for _, match := range block.FindAllStringSubmatch(page, -1) {
		b := Block{Commands: match[1]}
		began := time.Now()
		if _, err := io.WriteString(in, b.Commands+"echo; echo "+endOfBlock+"\n"); err != nil {
			return played, fmt.Errorf("type %q: %w", b.Commands, err)
		}
		err := b.read(answers)
		b.Took = time.Since(began)
		played = append(played, b)
		if err != nil {
			return played, fmt.Errorf("a command of these failed, or took too long:\n%s\nThey answered:\n%s", b.Commands, b.Answer)
		}
	}
	return played, nil
}

// endOfBlock is what the shell says when all of a block has succeeded.
const endOfBlock = "end-of-the-block"

// read reads the answer. It fails where a command has, as the shell then ends.
func (b *Block) read(answers *bufio.Reader) error {
	for {
		line, err := answers.ReadString('\n')
		if strings.TrimSpace(line) == endOfBlock {
			b.Answer = strings.TrimRight(b.Answer, "\n")
			return nil
		}
		b.Answer += line
		if err != nil {
			return err
		}
	}
}

// Write returns the page with the answers in it.
func Write(page string, played []Block) string {
	n := 0
	return block.ReplaceAllStringFunc(page, func(string) string {
		b := played[n]
		n++
		text := "```sh\n" + b.Commands + "```\n"
		if b.Answer != "" {
			text += "\n```text\n" + shortened(b.Answer) + "\n```\n"
		}
		return text
	})
}

// shortened has one line in place of all in which go says what it downloads.
func shortened(answer string) string {
	var lines []string
	downloads, at := 0, 0
	for line := range strings.SplitSeq(answer, "\n") {
		if strings.HasPrefix(line, "go: downloading ") {
			if downloads++; downloads == 1 {
				at = len(lines)
				lines = append(lines, "")
			}
			continue
		}
		lines = append(lines, line)
	}
	if downloads > 0 {
		lines[at] = fmt.Sprintf("go: downloading … (%d lines)", downloads)
	}
	return strings.Join(lines, "\n")
}
