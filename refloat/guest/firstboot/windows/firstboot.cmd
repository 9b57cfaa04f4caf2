@echo off
rem The first boots of a recovered Windows, started by its service at each of them until it has removed
rem itself: starts the script (PowerShell), counts before it does, ends it when it hangs, restarts Windows
rem for it, and puts everything away. Without a working PowerShell it says so over the report channels.
rem
rem It writes nothing but beside itself (state\), in HKLM\SOFTWARE\Refloat, and what :clean removes and restores.
rem Numbers are files in state\, replaced by renaming. One that is there but is no number ends it: a count
rem that starts anew could go on for ever.
rem The lock is the open launcher.log: a redirection keeps others from writing to it, and ends with its holder.
setlocal enableextensions disabledelayedexpansion
set "SELF=%~f0"
set "DIR=%~dp0"
set "STATE=%DIR%state\"
set "SYS=%SystemRoot%\System32"
set "REFLOAT_DIR=%DIR%"
set "LOG=%DIR%firstboot.log"
rem @SETTINGS@
if "%~1"=="" goto start
if "%~1"=="watch" goto watch
if "%~1"=="exchange" goto exchange
if "%~1"=="clean" goto clean_alone
exit /b 2

:start
if not exist "%STATE%" md "%STATE%"
call :locked 2>>"%DIR%launcher.log"
exit /b 0

:locked
call :plan
call :add boots
if errorlevel 1 set "REASON=the counters could not be read or written" & goto failed
call :log boot %VALUE%
if defined P_SERIAL if exist "%SYS%\mode.com" "%SYS%\mode.com" %P_SERIAL%: BAUD=115200 PARITY=n DATA=8 STOP=1 to=off xon=off odsr=off octs=off >nul
rem Numbers of reports rise over all boots, whatever a power cut may have taken back.
set /a SEQUENCE=VALUE * 1000
call :read sequence
if errorlevel 1 set VALUE=0
if %VALUE% LSS %SEQUENCE% call :write sequence %SEQUENCE%

:again
if exist "%STATE%finished" goto finish
if not exist "%POWERSHELL%" set "REASON=this Windows has no PowerShell" & goto failed
call :read spent
if errorlevel 1 set "REASON=the counters could not be read or written" & goto failed
if %VALUE% GEQ %DEADLINE% set "REASON=the time for it was over" & goto failed
call :read silent
if errorlevel 1 set "REASON=the counters could not be read or written" & goto failed
if %VALUE% GEQ %SILENT% set "REASON=the script began no stage in %SILENT% starts, PowerShell may not work here" & goto failed
call :read runs
if errorlevel 1 set "REASON=the counters could not be read or written" & goto failed
if %VALUE% GEQ %RUNS% set "REASON=the script was started %RUNS% times without an end" & goto failed
call :add runs
if errorlevel 1 set "REASON=the counters could not be read or written" & goto failed
set RUN=%VALUE%
call :log start %RUN% of the script
call :add silent
if errorlevel 1 set "REASON=the counters could not be read or written" & goto failed
del "%STATE%next" "%STATE%pid" "%STATE%watch" >nul 2>nul
>"%STATE%running" echo run %RUN%
start "" /b "%SYS%\cmd.exe" /d /c ""%SELF%" watch %RUN%"
"%POWERSHELL%" -NoProfile -NonInteractive -ExecutionPolicy Bypass -File "%DIR%firstboot.ps1" <nul >"%DIR%script-%RUN%.log"
rem A log for each: what an earlier one has left running may still hold its own.
rem Its first act is to write its number. A policy that forbids scripts does not forbid commands.
if not exist "%STATE%pid" call :by_stdin
del "%STATE%running" >nul 2>nul
set NEXT=
if exist "%STATE%next" set /p NEXT=<"%STATE%next"
if "%NEXT%"=="restart" goto restart
if "%NEXT%"=="done" goto finish
call :log the script ended without a word
call :pause %PAUSE%
goto again

:by_stdin
call :log the script did not run as a file: it is given as a command
>"%STATE%stdin" echo Invoke-Expression ((Get-Content -LiteralPath "$env:REFLOAT_DIR\firstboot.ps1") -join [string][char]10)
"%POWERSHELL%" -NoProfile -NonInteractive -Command - <"%STATE%stdin" >"%DIR%command-%RUN%.log"
exit /b 0

:restart
call :read restarts
if errorlevel 1 set "REASON=the counters could not be read or written" & goto failed
if %VALUE% GEQ %RESTARTS% set "REASON=the script asked for more than %RESTARTS% restarts" & goto failed
call :add restarts
if errorlevel 1 set "REASON=the counters could not be read or written" & goto failed
del "%STATE%next" >nul 2>nul
call :log restart %VALUE%
"%SYS%\shutdown.exe" /r /f /t 5 /d p:2:4 >nul
rem Nothing comes after this where Windows restarts. Where it does not, the script has to know.
call :pause %RESTART_WAIT%
call :spend %RESTART_WAIT%
call :log Windows did not restart
goto again

rem ------------------------------------------------------------------ the end

:failed
call :log failed: %REASON%
rem An earlier start may have come to an end already: its word holds.
if exist "%STATE%finished" goto finish
call :read restarts
set REBOOTS=%VALUE%
call :read boots
set BOOT=%VALUE%
call :read spent
set SPENT=%VALUE%
call :add sequence
set "LINE={"v":1,"token":"%P_TOKEN%","nonce":"%P_NONCE%","job":"%P_JOB%","boot_id":"boot-%BOOT%","seq":%VALUE%"
set "LINE=%LINE%,"stage":"final","uptime":%SPENT%,"status":"failed","system_state":"unknown","reboots":%REBOOTS%"
set "LINE=%LINE%,"problems":["%REASON%"],"cleaned":"
rem An empty line first: it ends what an interrupted write left.
>"%STATE%final.clean" echo.
>>"%STATE%final.clean" echo %LINE%true}
>"%STATE%final.left" echo.
>>"%STATE%final.left" echo %LINE%false}
>"%DIR%status.txt" echo STATUS=failed
>>"%DIR%status.txt" echo REASON=%REASON%
"%SYS%\reg.exe" add "HKLM\SOFTWARE\Refloat" /v Status /t REG_SZ /d failed /f >nul
"%SYS%\reg.exe" add "HKLM\SOFTWARE\Refloat" /v Reason /t REG_SZ /d "%REASON%" /f >nul
>"%STATE%finished" echo failed

:finish
rem The script has done this by itself, unless it was interrupted.
call :clean
rem In a .cmd file, set clears the errorlevel.
if errorlevel 1 (set LINE=%STATE%final.left) else (set LINE=%STATE%final.clean)
if not exist "%STATE%delivered" call :deliver
if not exist "%DIR%firstboot.ps1" call :log everything is removed
for %%F in ("%DIR%script-*.log" "%DIR%command-*.log") do if %%~zF EQU 0 del "%%F"
rd /s /q "%STATE%"
rem One line: what is read of this file is read before it goes.
del "%DIR%delivery.txt" >nul 2>nul & del "%SELF%" & exit 0

:deliver
rem Nobody is heard here: the last report is repeated, and the hub knows repetitions.
call :pairs delivery.txt
set /a TIMES=REPEATS
:deliver_again
if not exist "%LINE%" exit /b 1
call :send "%LINE%"
set /a TIMES=TIMES - 1
if %TIMES% LEQ 0 exit /b 0
call :pause %REPEAT_WAIT%
goto deliver_again

:clean_alone
call :clean
exit /b %ERRORLEVEL%

:clean
rem What was changed for the time of the first boots, then what was staged, the service last.
if not exist "%DIR%plan.txt" goto clean_files
call :plan
call :restore "HKLM\SYSTEM\CurrentControlSet\Control\CrashControl" AutoReboot %P_CRASH_REBOOT%
call :restore "HKLM\SYSTEM\CurrentControlSet\Services\partmgr\Parameters" SanPolicy %P_SAN_POLICY%
call :restore_path
:clean_files
if exist "%DIR%drivers" rd /s /q "%DIR%drivers"
del "%DIR%firstboot.ps1" "%DIR%plan.txt" "%DIR%secrets.txt" >nul 2>nul
set LEFT=0
for %%F in (drivers firstboot.ps1 plan.txt secrets.txt) do if exist "%DIR%%%F" set LEFT=1
"%SYS%\sc.exe" delete "%SERVICE%" >nul 2>nul
"%SYS%\reg.exe" query "%SERVICE_KEY%" >nul 2>nul
if errorlevel 1 exit /b %LEFT%
rem The SCM removes what is marked so by itself, at the latest when Windows stops.
"%SYS%\reg.exe" query "%SERVICE_KEY%" /v DeleteFlag >nul 2>nul
if not errorlevel 1 exit /b %LEFT%
"%SYS%\reg.exe" delete "%SERVICE_KEY%" /f >nul 2>nul
"%SYS%\reg.exe" query "%SERVICE_KEY%" >nul 2>nul
if not errorlevel 1 set LEFT=1
exit /b %LEFT%

:restore
if "%~3"=="" exit /b 0
if "%~3"=="-" goto restore_none
"%SYS%\reg.exe" add %1 /v %2 /t REG_DWORD /d %3 /f >nul
exit /b 0
:restore_none
"%SYS%\reg.exe" delete %1 /v %2 /f >nul 2>nul
exit /b 0

:restore_path
rem Our folder was put at the end of DevicePath. What follows it now is not ours, and then all is left alone.
set PATHS=
for /f "tokens=2,*" %%A in ('%SYS%\reg.exe query "%PATHS_KEY%" /v DevicePath') do if "%%A"=="REG_EXPAND_SZ" set "PATHS=%%B"
if not defined PATHS exit /b 0
set "END=%PATHS:~-@ADDED@%"
if /i not "%END%"=="%ADDED%" exit /b 0
set "PATHS=%PATHS:~0,-@ADDED@%"
rem To reg.exe, a backslash before a quote means the quote.
if "%PATHS:~-1%"=="\" set "PATHS=%PATHS%\"
"%SYS%\reg.exe" add "%PATHS_KEY%" /v DevicePath /t REG_EXPAND_SZ /d "%PATHS%" /f >nul
exit /b 0

rem ------------------------------------------------------------------ beside the script

:watch
rem Run %2: counts the time, and ends an attempt that takes longer than its stage may: "LIMIT NAME" in state\watch.
rem One file cannot be written by two at once.
set "LOG=%DIR%watch.log"
set TAG=
set TRIES=0
set TAKEN=0
set LIMIT=%START_LIMIT%
:watching
"%SYS%\ping.exe" -n %TICK_PINGS% 127.0.0.1 >nul
set NOW=
if exist "%STATE%running" set /p NOW=<"%STATE%running"
if not "%NOW%"=="run %~2" exit
call :spend %TICK%
set NOW=
if exist "%STATE%watch" set /p NOW=<"%STATE%watch"
if not defined NOW set NOW=%START_LIMIT% start 0
if not "%NOW%"=="%TAG%" set TAKEN=0
set TAG=%NOW%
for /f "tokens=1" %%A in ("%NOW%") do set /a LIMIT=%%A
set /a TAKEN=TAKEN + TICK
if %TAKEN% LSS %LIMIT% goto watching
set KILL=
if exist "%STATE%pid" set /p KILL=<"%STATE%pid"
call :log over its limit: %TAG%
set TAKEN=0
set /a TRIES=TRIES + 1
if %TRIES% GTR 3 set KILL=
if not defined KILL goto hung
"%SYS%\taskkill.exe" /f /t /pid %KILL% >nul
if errorlevel 1 "%SYS%\taskkill.exe" /f /pid %KILL% >nul
goto watching
:hung
rem Who it is is not known, or it cannot be ended. Should it wake up, it finds the end and leaves.
call :plan
set "REASON=PowerShell hangs and could not be ended"
goto failed

:exchange
rem One report out and the answer back. The script ends this when no answer comes.
call :pairs delivery.txt
del "%STATE%ack" >nul 2>nul
call :zero
type "%~2" >"%PORTS%%P_CHANNEL%"
if errorlevel 1 exit /b 1
set ANSWER=
set /p ANSWER=<"%PORTS%%P_CHANNEL%"
if defined ANSWER >"%STATE%ack" set ANSWER
exit /b 0

:send
rem To every channel that can be written without an answer.
if defined P_SERIAL type %1 >"\\.\%P_SERIAL%"
if defined P_CHANNEL type %1 >"%PORTS%%P_CHANNEL%"
exit /b 0

rem ------------------------------------------------------------------ small things

:plan
call :pairs plan.txt
call :pairs secrets.txt
call :pairs delivery.txt
exit /b 0

:pairs
rem KEY=VALUE lines, as variables P_KEY.
if exist "%DIR%%1" for /f "usebackq tokens=1,* delims==" %%A in ("%DIR%%1") do set "P_%%A=%%B"
exit /b 0

:read
rem The number in state\%1, in VALUE; 0 where there is none yet.
set VALUE=
if not exist "%STATE%%1" set VALUE=0
if exist "%STATE%%1" set /p VALUE=<"%STATE%%1"
if not defined VALUE exit /b 1
set CHECK=
set /a CHECK=VALUE
if not "%CHECK%"=="%VALUE%" exit /b 1
exit /b 0

:write
call :zero
>"%STATE%%1.new" echo %2
if errorlevel 1 exit /b 1
move /y "%STATE%%1.new" "%STATE%%1" >nul
exit /b %ERRORLEVEL%

:spend
call :read spent
if errorlevel 1 exit /b 1
set /a VALUE=VALUE + %1
call :write spent %VALUE%
exit /b %ERRORLEVEL%

:add
call :read %1
if errorlevel 1 exit /b 1
set /a VALUE=VALUE + 1
call :write %1 %VALUE%
exit /b %ERRORLEVEL%

:zero
rem The errorlevel: what is built into cmd.exe leaves an old one as it was.
exit /b 0

:pause
rem Seconds. timeout.exe wants a console, which a service does not have.
set /a PINGS=%1 + 1
"%SYS%\ping.exe" -n %PINGS% 127.0.0.1 >nul
exit /b 0

:log
>>"%LOG%" echo %DATE% %TIME% launcher: %*
exit /b 0
