// A server of files with Go's net/http: goroutines over a few threads, the network poller, preemption by signals.
//
//	http ADDRESS FOLDER
package main

import (
	"log"
	"net/http"
	"os"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: http ADDRESS FOLDER")
	}
	log.Fatal(http.ListenAndServe(os.Args[1], http.FileServer(http.Dir(os.Args[2]))))
}
