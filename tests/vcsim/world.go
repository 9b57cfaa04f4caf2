package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const block = 64 << 10

// order is a fault that waits for its call.
type order struct {
	Method string // "CreateSnapshot_Task"
	Fault  string // the type of the fault, of the call or (Task) of the task that it starts
	Inner  string // XML inside the fault
	Task   bool
	Status int  // an HTTP status instead of an answer
	Drop   bool // the connection is cut
	After  bool // only after the call was performed: the answer is lost
	Delay  int  // milliseconds
	Count  int  // how many calls; 0: one
}

// machine is what the simulator does not keep of a VM.
type machine struct {
	files   map[int32]string // the file with a disk's content, by the disk's key
	uuid    string           // of its change records
	epoch   int
	tracked bool                     // a snapshot was made since tracking was turned on
	history map[int]map[int32][]byte // content at each epoch
	deaf    bool                     // the guest does not obey
}

type world struct {
	sync.Mutex
	directory        string
	inner            http.Handler
	shown            *certificate
	closeConnections func()
	orders           []*order
	machines         map[string]*machine // by the VM's id
	cookies, dead    map[string]bool
	calls            []string
	window           int64 // how much of a disk one answer covers
}

func newWorld(directory string, inner http.Handler, shown *certificate) *world {
	return &world{
		directory: directory, inner: inner, shown: shown, window: 1 << 20,
		machines: map[string]*machine{}, cookies: map[string]bool{}, dead: map[string]bool{},
	}
}

func (w *world) machine(id string) *machine {
	if w.machines[id] == nil {
		w.machines[id] = &machine{
			files: map[int32]string{}, history: map[int]map[int32][]byte{}, uuid: uuid.New().String(),
		}
	}
	return w.machines[id]
}

// call is the part of a SOAP request that matters here.
type call struct {
	XMLName  xml.Name
	This     string `xml:"_this"`
	Quiesce  bool   `xml:"quiesce"`
	Snapshot string `xml:"snapshot"`
	Key      int32  `xml:"deviceKey"`
	Start    int64  `xml:"startOffset"`
	ChangeID string `xml:"changeId"`
}

type envelope struct {
	Body struct {
		Call call `xml:",any"`
	}
}

func (w *world) ServeHTTP(out http.ResponseWriter, in *http.Request) {
	if in.URL.Path != "/sdk" || in.Method != "POST" {
		w.inner.ServeHTTP(out, in)
		return
	}
	body, err := io.ReadAll(in.Body)
	var soap envelope
	if err == nil {
		err = xml.Unmarshal(body, &soap)
	}
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	in.Body = io.NopCloser(bytes.NewReader(body))
	one := soap.Body.Call
	w.session(in)
	w.Lock()
	w.calls = append(w.calls, one.XMLName.Local)
	order := w.next(one.XMLName.Local)
	w.Unlock()
	if order != nil {
		time.Sleep(time.Duration(order.Delay) * time.Millisecond)
		if order.After {
			w.answer(discard{header: http.Header{}}, in, one)
		}
		switch {
		case order.Drop:
			drop(out)
			return
		case order.Status != 0:
			http.Error(out, "by order", order.Status)
			return
		case order.Task:
			w.failedTask(out, one, order)
			return
		case order.Fault != "":
			fault(out, order.Fault, order.Inner)
			return
		}
	}
	w.answer(out, in, one)
}

func (w *world) next(method string) *order {
	for i, one := range w.orders {
		if one.Method == method || one.Method == "*" {
			one.Count--
			if one.Count <= 0 {
				w.orders = append(w.orders[:i:i], w.orders[i+1:]...)
			}
			return one
		}
	}
	return nil
}

// session takes the cookie of a session that has expired out of the request.
func (w *world) session(in *http.Request) {
	w.Lock()
	defer w.Unlock()
	cookie := in.Header.Get("Cookie")
	if w.dead[cookie] {
		in.Header.Del("Cookie")
	} else if cookie != "" {
		w.cookies[cookie] = true
	}
}

func (w *world) answer(out http.ResponseWriter, in *http.Request, one call) {
	switch one.XMLName.Local {
	case "QueryChangedDiskAreas":
		if w.authenticated(in) {
			w.changedAreas(out, one)
			return
		}
	case "CreateSnapshot_Task":
		if w.authenticated(in) {
			w.snapshot(out, in, one)
			return
		}
	case "RemoveSnapshot_Task":
		w.inner.ServeHTTP(out, in)
		os.RemoveAll(filepath.Join(w.directory, one.This))
		return
	case "ShutdownGuest":
		vm := virtualMachine(one.This)
		if vm != nil && w.authenticated(in) {
			if vm.Guest == nil || vm.Guest.ToolsRunningStatus != "guestToolsRunning" {
				fault(out, "ToolsUnavailable", "")
				return
			}
			if w.machine(one.This).deaf {
				write(out, 200, `<ShutdownGuestResponse xmlns="urn:vim25"></ShutdownGuestResponse>`)
				return
			}
		}
	case "ReconfigureAutostart":
		if w.authenticated(in) {
			reconfigureAutostart(out, in, one)
			return
		}
	}
	w.inner.ServeHTTP(out, in)
}

func (w *world) authenticated(in *http.Request) bool { return in.Header.Get("Cookie") != "" }

// ---------------------------------------------------------------- disks

func disks(vm *simulator.VirtualMachine) []*types.VirtualDisk {
	var found []*types.VirtualDisk
	for _, one := range vm.Config.Hardware.Device {
		if disk, ok := one.(*types.VirtualDisk); ok {
			found = append(found, disk)
		}
	}
	return found
}

// snapshot keeps every disk's content of this instant, and names it where changes are tracked.
func (w *world) snapshot(out http.ResponseWriter, in *http.Request, one call) {
	vm := virtualMachine(one.This)
	w.Lock()
	m := w.machine(one.This)
	m.epoch++
	m.history[m.epoch] = map[int32][]byte{}
	enabled := vm.Config.ChangeTrackingEnabled != nil && *vm.Config.ChangeTrackingEnabled
	for _, disk := range disks(vm) {
		content, err := os.ReadFile(m.files[disk.Key])
		if err == nil {
			m.history[m.epoch][disk.Key] = content
		}
		if backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
			backing.ChangeId = ""
			if enabled && m.tracked {
				backing.ChangeId = fmt.Sprintf("%s/%d", m.uuid, m.epoch)
			}
		}
	}
	m.tracked = enabled
	w.Unlock()
	w.inner.ServeHTTP(out, in)
	if vm.Snapshot == nil || vm.Snapshot.CurrentSnapshot == nil {
		return
	}
	folder := filepath.Join(w.directory, vm.Snapshot.CurrentSnapshot.Value)
	os.MkdirAll(folder, 0o700)
	for _, disk := range disks(vm) {
		name := fileName(disk)
		os.WriteFile(filepath.Join(folder, flat(name)), m.history[m.epoch][disk.Key], 0o600)
	}
}

func fileName(disk *types.VirtualDisk) string {
	if backing, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
		return backing.GetVirtualDeviceFileBackingInfo().FileName
	}
	return ""
}

// flat is a datastore path as one file name.
func flat(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("[]/ ", r) {
			return '_'
		}
		return r
	}, name)
}

func (w *world) changedAreas(out http.ResponseWriter, one call) {
	w.Lock()
	defer w.Unlock()
	m := w.machine(one.This)
	current := m.history[m.epoch][one.Key]
	var old []byte
	if one.ChangeID == "*" {
		old = make([]byte, len(current))
	} else {
		var id string
		var epoch int
		if at := strings.LastIndex(one.ChangeID, "/"); at > 0 {
			id = one.ChangeID[:at]
			fmt.Sscan(one.ChangeID[at+1:], &epoch)
		}
		if id != m.uuid || m.history[epoch][one.Key] == nil {
			fault(out, "InvalidArgument", "<invalidProperty>changeId</invalidProperty>")
			return
		}
		old = m.history[epoch][one.Key]
	}
	end := one.Start + w.window
	if end > int64(len(current)) {
		end = int64(len(current))
	}
	areas := ""
	for at := one.Start; at < end; at += block {
		stop := at + block
		if stop > end {
			stop = end
		}
		if stop > int64(len(old)) || !bytes.Equal(old[at:stop], current[at:stop]) {
			areas += fmt.Sprintf("<changedArea><start>%d</start><length>%d</length></changedArea>", at, stop-at)
		}
	}
	write(out, 200, fmt.Sprintf(`<QueryChangedDiskAreasResponse xmlns="urn:vim25"><returnval>`+
		`<startOffset>%d</startOffset><length>%d</length>%s</returnval></QueryChangedDiskAreasResponse>`,
		one.Start, end-one.Start, areas))
}

// ---------------------------------------------------------------- answers

func write(out http.ResponseWriter, status int, inner string) {
	out.Header().Set("Content-Type", "text/xml; charset=utf-8")
	out.WriteHeader(status)
	fmt.Fprintf(out, `<?xml version="1.0" encoding="UTF-8"?>`+
		`<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" `+
		`xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>%s</soapenv:Body></soapenv:Envelope>`, inner)
}

func fault(out http.ResponseWriter, name, inner string) {
	write(out, 500, fmt.Sprintf(`<soapenv:Fault><faultcode>ServerFaultCode</faultcode>`+
		`<faultstring>by order</faultstring><detail><%sFault xmlns="urn:vim25" xsi:type="%s">%s</%sFault>`+
		`</detail></soapenv:Fault>`, name, name, inner, name))
}

func (w *world) failedTask(out http.ResponseWriter, one call, order *order) {
	kind, _ := types.TypeFunc()(order.Fault)
	reason := reflect.New(kind).Interface().(types.BaseMethodFault)
	run := func(*simulator.Task) (types.AnyType, types.BaseMethodFault) { return nil, reason }
	task := simulator.CreateTask(virtualMachine(one.This), one.XMLName.Local, run)
	ref := task.Run()
	write(out, 200, fmt.Sprintf(`<%sResponse xmlns="urn:vim25"><returnval type="Task">%s</returnval></%sResponse>`,
		one.XMLName.Local, ref.Value, one.XMLName.Local))
}

func drop(out http.ResponseWriter) {
	if hijacker, ok := out.(http.Hijacker); ok {
		if connection, _, err := hijacker.Hijack(); err == nil {
			connection.Close()
		}
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
