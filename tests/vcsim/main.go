// vcsim with what Refloat's tests need beyond govmomi's simulator: guest networks, disks with content and
// change tracking, faults by order. Built by tests/vcsim/build.py from Debian's Go packages.
//
// usage: vcsim DIRECTORY CERTIFICATE KEY USER PASSWORD. Prints its ports as JSON, ends when its standard
// input does. The control port takes JSON by POST: see the handlers at the end of control.go.
package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// certificate is the one that is shown now: a test may change it while connections are open.
type certificate struct {
	sync.Mutex
	current tls.Certificate
}

func (c *certificate) load(cert, key string) error {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err == nil {
		c.Lock()
		c.current = pair
		c.Unlock()
	}
	return err
}

func (c *certificate) config() *tls.Config {
	c.Lock()
	defer c.Unlock()
	return &tls.Config{Certificates: []tls.Certificate{c.current}}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// autoStart is a host's: the simulator has none.
type autoStart struct {
	mo.HostAutoStartManager
	host *simulator.HostSystem
}

func addAutoStart() {
	for _, one := range simulator.Map.All("HostSystem") {
		host := one.(*simulator.HostSystem)
		manager := &autoStart{host: host}
		enabled := types.NewBool(true)
		config := types.HostAutoStartManagerConfig{Defaults: &types.AutoStartDefaults{Enabled: enabled}}
		manager.HostAutoStartManager.Config = config
		manager.Self = types.ManagedObjectReference{
			Type: "HostAutoStartManager", Value: "autostart-" + host.Self.Value,
		}
		simulator.Map.Put(manager)
		host.ConfigManager.AutoStartManager = &manager.Self
		host.Config.AutoStart = &config
	}
}

func main() {
	log.SetOutput(io.Discard)
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: vcsim DIRECTORY CERTIFICATE KEY USER PASSWORD")
		os.Exit(2)
	}
	model := simulator.VPX()
	model.Cluster, model.Host, model.Machine, model.Portgroup, model.Datastore = 0, 1, 2, 1, 1
	model.ServiceContent.About.ApiVersion = "7.0.3.0" // the simulator says 6.5, and knows types of later ones
	must(model.Create())
	addAutoStart()

	shown := &certificate{}
	must(shown.load(os.Args[2], os.Args[3]))
	model.Service.TLS = shown.config()
	model.Service.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return shown.config(), nil
	}
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(os.Args[4], os.Args[5])}
	server := model.Service.NewServer()

	world := newWorld(os.Args[1], server.Config.Handler, shown)
	world.closeConnections = server.CloseClientConnections
	server.Config.Handler = world
	server.Config.ErrorLog = log.New(os.Stderr, "vcsim: ", 0) // a handler that panics
	control, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	go func() { must(http.Serve(control, world.control())) }()

	must(json.NewEncoder(os.Stdout).Encode(map[string]string{
		"port":    server.URL.Port(),
		"control": control.Addr().String(),
	}))
	io.Copy(io.Discard, os.Stdin)
	model.Remove()
}
