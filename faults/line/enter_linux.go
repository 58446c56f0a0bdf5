package line

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
)

// Enter moves the process into a network namespace of its own: the process that
// calls it first becomes the parent of one that is there, passes signals on to
// it and ends with its status; in the child Enter returns. To be called first of
// all. Where it cannot be done, it returns at once, and NamespaceFault says why.
func Enter() error {
	if Inside() {
		fault = ""
		sweep(context.Background())
		return settle(context.Background())
	}
	if fault = missing(); fault != "" {
		return nil
	}
	runtime.LockOSThread() // the child is told of the end of this thread
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Args[0] = os.Args[0]
	child.Env = append(os.Environ(), insideEnv+"="+network())
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP)
	if err := child.Start(); err != nil {
		signal.Stop(signals)
		fault = err.Error()
		return err
	}
	go func() {
		for s := range signals {
			_ = child.Process.Signal(s) // it may have ended
		}
	}()
	err := child.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status := exit.Sys().(syscall.WaitStatus); status.Signaled() {
			os.Exit(128 + int(status.Signal()))
		}
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

func missing() string {
	if os.Geteuid() != 0 {
		return "it takes root to make network namespaces"
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return "there is no ip(8) (Debian: iproute2)"
	}
	probe := exec.Command("ip", "link")
	probe.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := probe.Run(); err != nil {
		return "network namespaces are not allowed here: " + err.Error()
	}
	return ""
}
