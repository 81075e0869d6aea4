// One mutual TLS request by Node's own OpenSSL; prints one line of JSON about it.
// argv: port, CA file, certificate file, key file
'use strict';
const https = require('https');
const fs = require('fs');
const [port, ca, cert, key] = process.argv.slice(2);

let staple = null;
const request = https.request({
  host: '127.0.0.1',
  servername: 'localhost',
  port,
  path: '/',
  ca: fs.readFileSync(ca),
  cert: fs.readFileSync(cert),
  key: fs.readFileSync(key),
  minVersion: 'TLSv1.3',
  ecdhCurve: 'X25519MLKEM768',
  requestOCSP: true,
  agent: false,
}, (response) => {
  const socket = response.socket;
  let body = '';
  response.on('data', (part) => { body += part; });
  response.on('end', () => {
    console.log(JSON.stringify({
      status: response.statusCode,
      body,
      protocol: socket.getProtocol(),
      authorized: socket.authorized,
      serial: socket.getPeerCertificate().serialNumber,
      staple,
    }));
  });
});
request.on('socket', (socket) => {
  socket.on('OCSPResponse', (der) => { staple = der.toString('base64'); });
});
request.on('error', (error) => console.log(JSON.stringify({ error: error.message })));
request.end();
