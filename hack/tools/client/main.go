// Command client does what kubectl does when it streams, against a kubelet that asks nobody's name:
//
//	client [-websocket] exec    URL NAMESPACE/POD/CONTAINER COMMAND...
//	client [-websocket] attach  URL NAMESPACE/POD/CONTAINER
//	client [-websocket] forward URL NAMESPACE/POD LOCAL:REMOTE
//
// Its standard streams are the process's, and its exit code is the command's. forward prints "ready" when it listens, and ends with its input.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

var websocket = flag.Bool("websocket", false, "over WebSocket instead of SPDY")

func main() {
	flag.Parse()
	if flag.NArg() < 3 {
		flag.Usage()
		os.Exit(2)
	}
	err := run(flag.Arg(0), flag.Arg(1), flag.Arg(2), flag.Args()[3:])
	var exited exec.CodeExitError
	if errors.As(err, &exited) {
		os.Exit(exited.Code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(verb, base, what string, rest []string) error {
	switch verb {
	case "exec":
		return stream(base+"/exec/"+what, url.Values{"command": rest})
	case "attach":
		return stream(base+"/attach/"+what, url.Values{})
	case "forward":
		return forward(base+"/portForward/"+what, rest)
	default:
		return fmt.Errorf("no such verb: %s", verb)
	}
}

func config() *rest.Config {
	return &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func stream(address string, query url.Values) error {
	for _, one := range []string{"input", "output", "error"} {
		query.Set(one, "1")
	}
	target, err := url.Parse(address + "?" + query.Encode())
	if err != nil {
		return err
	}
	var executor remotecommand.Executor
	if *websocket {
		executor, err = remotecommand.NewWebSocketExecutor(config(), http.MethodGet, target.String())
	} else {
		executor, err = remotecommand.NewSPDYExecutor(config(), http.MethodPost, target)
	}
	if err != nil {
		return err
	}
	return executor.StreamWithContext(context.Background(), remotecommand.StreamOptions{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	})
}

func forward(address string, ports []string) error {
	dialer, err := dialerTo(address)
	if err != nil {
		return err
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	go func() {
		<-ready
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, ports, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	return forwarder.ForwardPorts()
}

func dialerTo(address string) (httpstream.Dialer, error) {
	target, err := url.Parse(strings.TrimSuffix(address, "/"))
	if err != nil {
		return nil, err
	}
	if *websocket {
		return portforward.NewSPDYOverWebsocketDialer(target, config())
	}
	transport, upgrader, err := spdy.RoundTripperFor(config())
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target), nil
}
